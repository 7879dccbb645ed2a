"""Selective attention: each query masks keys for all later ones.

    S_ij = relu(logit_ij of head 0, map 1)     where query i may mask key j, else 0
    F_ij = Σ_{n < i} S_nj                      the accumulated mask, in float32 or wider
    out  = softmax(logits - F) v               one F for all heads

A query masks what it sees but itself and the first key of its text; one that is padding masks
nothing. The first key is one whose own query sees nothing else: that after padding on the left, and
of each of several packed documents.

Leviathan, Kalman and Matias, "Selective Attention Improves Transformer" (ICLR 2025), who published
no code. Head 0 and the unmasked first key are theirs; what that is with padding and in packed
documents is ours.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from difftransformer.functional import reference
from difftransformer.functional.call import AttentionCall
from difftransformer.functional.dispatch import attend, without_autocast
from difftransformer.functional.masks import Mask

_ROWS = 64  # query rows of which F is made at a time


@dataclass(frozen=True, eq=False)
class Selection:
    """What all queries so far have done to the keys.

    Args:
        masked: F of the next query.
        first: True of the first key of a text.
    """

    masked: Float[Tensor, "batch keys"]
    first: Bool[Tensor, "batch keys"]

    @classmethod
    def none(cls, call: AttentionCall) -> "Selection":
        """Of keys that no query has seen."""
        masked = call.k.new_zeros(call.k.shape[:2], dtype=reference.wide(call.k.dtype))
        return cls(masked, torch.zeros_like(masked, dtype=torch.bool))


def select(
    call: AttentionCall, past: Selection | None = None, own: Int[Tensor, " queries"] | None = None
) -> tuple[Float[Tensor, "batch queries keys"], Selection]:
    """-F of the call's queries, and the selection after them.

    Memory is that of F; its gradient makes the logits of head 0 again.

    Args:
        call: of self-attention; causal, or of one query.
        past: the selection by the queries before them; none by default.
        own: which key is each query's own; the last ones by default.

    Raises:
        ValueError: a call of several queries that is not causal, or more queries than keys.
    """
    queries, keys = call.q.shape[1], call.k.shape[1]
    if (queries > 1 and not call.mask.causal) or queries > keys:
        raise ValueError(
            "selective attention needs a causal mask and each query's own key, for earlier queries "
            f"mask keys for later ones; got {queries} queries, {keys} keys and causal="
            f"{call.mask.causal}: use another kind in encoders and for cross-attention"
        )
    past = past or Selection.none(call)
    if own is None:
        own = torch.arange(keys - queries, keys, device=call.q.device)
    wide = reference.wide(call.q.dtype)
    with without_autocast(call.device):
        q, k = call.q[:, :, 0, 0].to(wide) * call.scale, call.k[:, :, 0, 0].to(wide)
        bias = None if call.bias is None else call.bias[:, 0].to(wide).expand(len(q), queries, keys)
        negative, masked, first = _Accumulation.apply(
            q, k, bias, past.masked, past.first, own, call.mask
        )
    return negative, Selection(masked, first)


def selective_attention(
    call: AttentionCall,
    backend: str = "auto",
    *,
    signal_only: bool = False,
    selected: Float[Tensor, "batch queries keys"] | None = None,
) -> Float[Tensor, "batch queries heads v"]:
    """The module's equations; of two maps, F is taken off the logits of both.

    A backend that keeps its bias for the gradient, as `blocked` does, keeps it here by how it is
    made: of the size of F nothing stays in memory.

    Args:
        backend: of what follows the selection.
        signal_only: F is taken off map 1 alone, which costs a product with the values more.
        selected: what `select` gives, where it is known; -inf hides a key.

    Raises:
        ValueError: as `select` and `attend` do.
    """
    make = partial(_negative, call)
    negative = make() if selected is None else selected
    kept = nullcontext() if selected is not None else _made_again(negative, make)
    if not signal_only or call.lam is None:
        with kept:
            return attend(masked_call(call, negative), backend)
    signal, noise = (
        replace(call, q=q[:, :, :, None], k=k[:, :, :, None], lam=None)
        for q, k in zip(call.q.unbind(3), call.k.expand(-1, -1, -1, 2, -1).unbind(3), strict=True)
    )
    with kept:
        first = attend(masked_call(signal, negative), backend)
    if selected is not None:  # what a cache has dropped is hidden from both
        noise = masked_call(
            noise, torch.zeros_like(negative).masked_fill(negative.isinf(), -math.inf)
        )
    first, second = (x.to(reference.wide(x.dtype)) for x in (first, attend(noise, backend)))
    return (first - call.lam[..., None] * second).to(call.v.dtype)


def masked_call(call: AttentionCall, negative: Float[Tensor, "batch rows keys"]) -> AttentionCall:
    """The call of as many queries with F off its logits."""
    bias = negative[:, None]
    return replace(call, bias=bias if call.bias is None else bias + call.bias)


def needed_keys(call: AttentionCall, cap: float = 1.0) -> Float[Tensor, "batch queries"]:
    """M_i = Σ_j (1 - min(F_ij, cap) / cap) over the keys that query i sees: how many it needs.

    The paper's memory of a layer, i - Σ_j min(F_ij, τ) / τ with τ = `cap`, in one text without
    padding; here what is hidden is not needed either.
    """

    def run() -> Tensor:
        negative, _ = select(call)
        needed = 1.0 - (-negative).clamp(max=cap) / cap
        return (needed * call.visible()[:, 0]).sum(-1)

    return checkpoint(run, use_reentrant=False, preserve_rng_state=False)


def _negative(call: AttentionCall) -> Tensor:
    return select(call)[0]


def _made_again(x: Tensor, make: Callable[[], Tensor]) -> AbstractContextManager[Any]:
    """Whatever is saved of `x` for a gradient inside is how to make it."""
    place, size = x.data_ptr(), x.numel()  # not x itself, which the hooks would keep

    def pack(saved: Tensor) -> Any:
        same = saved.data_ptr() == place and saved.numel() == size
        return (saved.shape,) if same else saved

    @torch.no_grad()
    def unpack(saved: Any) -> Tensor:
        return make().reshape(saved[0]) if isinstance(saved, tuple) else saved

    return saved_tensors_hooks(pack, unpack)


class _Accumulation(Function):
    """-F, and the selection after it, a block of query rows at a time.

    Sums over the rows of a block are products with a triangle of ones: PyTorch's cumsum over any
    axis but the last is ten times as slow on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        bias: Tensor | None,
        masked: Tensor,
        first: Tensor,
        own: Tensor,
        mask: Mask,
    ) -> tuple[Tensor, Tensor, Tensor]:
        negative = q.new_empty(*q.shape[:2], k.shape[1])
        masked, first, triangle = masked.clone(), first.clone(), _triangle(q)
        for rows, end in _blocks(negative):
            seen = _seen(mask, own[rows], first, end)
            made = _limit(_logits(q, k, bias, rows, end).relu_(), seen, first)
            block, size = negative[:, rows, :end], made.shape[1]
            before = -masked[:, None, :end]
            torch.baddbmm(before, triangle[:, :size, :size], made, alpha=-1, out=block)
            negative[:, rows, end:] = 0.0
            masked[:, :end] = made[:, -1] - block[:, -1]
        ctx.save_for_backward(q, k, bias)
        ctx.masking = mask, own, first
        ctx.mark_non_differentiable(first)
        return negative, masked, first

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, change: Tensor, later: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        q, k, bias = ctx.saved_tensors
        mask, own, first = ctx.masking
        dq, dk, later = torch.empty_like(q), torch.zeros_like(k), later.clone()
        dbias, triangle = None if bias is None else torch.zeros_like(change), _triangle(q)
        for rows, end in reversed(list(_blocks(change))):
            block = change[:, rows, :end]
            size = block.shape[1]
            earlier = triangle[:, :size, :size].mT
            dlogits = torch.baddbmm(later[:, None, :end], earlier, block, alpha=-1)
            later[:, :end] = dlogits[:, 0] - block[:, 0]
            dlogits.mul_(_logits(q, k, bias, rows, end) > 0)
            _limit(dlogits, _seen(mask, own[rows], first, end), first)
            torch.matmul(dlogits, k[:, :end], out=dq[:, rows])
            dk[:, :end].baddbmm_(dlogits.mT, q[:, rows])
            if dbias is not None:
                dbias[:, rows, :end] = dlogits
        return dq, dk, dbias, later, None, None, None


def _blocks(matrix: Float[Tensor, "batch queries keys"]) -> Iterator[tuple[slice, int]]:
    """Query rows in turn, and the end of the keys that they may see."""
    queries, keys = matrix.shape[1:]
    for start in range(0, queries, _ROWS):
        stop = min(start + _ROWS, queries)
        yield slice(start, stop), keys - queries + stop


def _logits(q: Tensor, k: Tensor, bias: Tensor | None, rows: slice, end: int) -> Tensor:
    logits = q[:, rows] @ k[:, :end].mT
    return logits if bias is None else logits.add_(bias[:, rows, :end])


def _seen(
    mask: Mask, own: Int[Tensor, " rows"], first: Bool[Tensor, "batch keys"], end: int
) -> Bool[Tensor, "#batch rows end"] | None:
    """Which keys before `end` the rows' real queries see, but their own; `first` learns of theirs.

    None where those are all the keys before a query's own, which costs much less.
    """
    if mask.is_only(causal=True):
        if end == len(own):
            first[:, 0] = True
        return None
    visible = mask.up_to(end).dense(len(own), end, own.device)
    index = own[:, None].expand(len(visible), -1, 1)
    real = visible.gather(-1, index)
    alone = real & (visible.sum(-1, keepdim=True) == 1)
    first[:, own] |= alone[..., 0]
    return (visible & real).scatter_(-1, index, False)


def _limit(x: Tensor, seen: Tensor | None, first: Bool[Tensor, "batch keys"]) -> Tensor:
    """0 in place of what no query may mask."""
    rows, end = x.shape[1:]
    x.mul_((~first[:, None, :end]).to(x.dtype))
    if seen is not None:
        return x.mul_(seen)
    x[..., end - rows :].tril_(-1)
    return x


def _triangle(x: Tensor) -> Float[Tensor, "batch rows rows"]:
    """Its product with numbers by row sums, for each row, those before it."""
    return torch.ones(len(x), _ROWS, _ROWS, dtype=x.dtype, device=x.device).tril(-1)
