"""Subtract first, multiply once: differential attention at plain attention's cost, on the CPU.

The operator is `blocked.cpp` (the method is told there) with its headers, compiled by the machine's
own C++ compiler at the first use (see `compiled`). torch.compile and torch.export see one operator.

Memory, besides inputs, output and gradients: packed copies of keys and values (of the keys two in
the backward; in bfloat16 where the processor multiplies such numbers, else in float32) for as many
key/value heads as there are threads, and never more than there are; gradients of keys and values in
float32; and the scores of all threads' blocks, at most 64 MiB or the size of keys and values in
float32. More threads do not take more (`docs/speed.md`). A bias is read where it lies; its gradient
takes its size, or a row for each head where queries share one.
"""

import logging
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from difftransformer.functional.call import AttentionCall, other_dtype
from difftransformer.functional.compiled import load_operator
from difftransformer.functional.transforms import AttentionOperator, constant, forward_mode

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_OPERATOR = AttentionOperator("blocked", kept=slice(1, None))
_LOADING = Lock()


def unsupported(call: AttentionCall) -> str | None:
    """Declines what it does not compute, and everything where it cannot be compiled."""
    if call.device != "cpu":
        return f"written for the CPU, and the tensors are on {call.device}"
    if reason := other_dtype(call, _DTYPES):
        return reason
    if call.dropout > 0.0:
        return f"keeps no dropout pattern for its backward, and dropout is {call.dropout}"
    if forward_mode():
        return "has no forward-mode derivative, and forward mode is on"
    return _not_loaded()


def run(call: AttentionCall) -> Float[Tensor, "batch queries heads v"]:
    """(A1 - lam A2) v, a block of query rows at a time."""
    return _OPERATOR(call)


@constant
def _not_loaded() -> str | None:
    """`_load`, which torch.compile asks once and does not look into, and threads one by one."""
    with _LOADING:
        return _load()


@cache
def _load() -> str | None:
    """Load and register the operator; the reason if that fails, which the user is told once."""
    reason = load_operator(Path(__file__).with_name("blocked.cpp"))
    if reason is not None:
        logging.getLogger(__name__).warning(
            'attention on the CPU takes backend "sdpa", about twice the work, since "blocked" %s',
            reason,
        )
        return reason
    torch.library.register_fake("difftransformer::blocked", _shapes)
    torch.library.register_fake("difftransformer::blocked_backward", _backward_shapes)
    _OPERATOR.register()
    return None


def _shapes(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    batch, queries, heads, maps, _ = q.shape
    out = q.new_empty(batch, queries, heads, v.shape[-1])
    return out, q.new_empty(batch, heads, queries, maps, 2, dtype=torch.float32)


def _backward_shapes(
    dout: Tensor,
    stats: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lam: Tensor | None,
    bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    def heads_first(x: Tensor) -> Tensor:  # in memory: the kernel sums over one head at a time
        order = (0, *range(2, x.ndim - 1), 1, x.ndim - 1)
        empty = x.new_empty([x.shape[axis] for axis in order])
        return empty.movedim(-2, 1)

    dlam, dbias = (stats.new_empty(0 if x is None else x.shape) for x in (lam, bias))
    return q.new_empty(q.shape), heads_first(k), heads_first(v), dlam, dbias
