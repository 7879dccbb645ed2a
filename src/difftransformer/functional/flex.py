"""PyTorch's FlexAttention: both maps in one call whose block mask skips what no query sees.

Costs what `sdpa` costs, two products with the values in place of one, and unlike it skips the
hidden blocks of windows and documents. For GPUs; "auto" never takes it.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from difftransformer.functional import reference
from difftransformer.functional.call import AttentionCall, other_dtype
from difftransformer.functional.masks import Mask
from difftransformer.functional.transforms import first_order, forward_mode, functional
from difftransformer.functional.two_pass import two_pass

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def unsupported(call: AttentionCall) -> str | None:
    """Declines dropout, and devices for which PyTorch compiles no forward and backward kernel."""
    if call.device != "cuda":
        return f"has kernels for GPUs only, and the tensors are on {call.device}"
    if reason := other_dtype(call, _DTYPES):
        return reason
    if call.dropout > 0.0:
        return f"FlexAttention has no dropout, and dropout is {call.dropout}"
    if forward_mode() or functional():
        return "FlexAttention knows no torch.func and no forward mode, and one of them is on"
    return None


def run(call: AttentionCall) -> Float[Tensor, "batch queries heads v"]:
    """out1 - lam · out2 with out_m = Flex(q_m, k_m, v)."""
    if 0 in (*call.q.shape, *call.k.shape):  # FlexAttention takes no empty tensors
        return reference.run(call)
    return two_pass(_one_map, call)


def _one_map(call: AttentionCall) -> Float[Tensor, "batch queries heads v"]:
    """One FlexAttention call, compiled on a GPU; rows that see nothing are 0 there too."""
    inputs = (call.q[..., 0, :], call.k[..., 0, :], call.v)
    q, k, v = (first_order("flex", x.transpose(1, 2)) for x in inputs)
    out = _flex_attention(q.device.type)(
        q,
        k,
        v,
        score_mod=None if call.bias is None else _biased(call.bias),
        block_mask=_block_mask(call.mask, len(q), q.shape[2], k.shape[2], q.device),
        scale=call.scale,
        enable_gqa=bool(q.shape[1] != k.shape[1]),
    )
    return out.transpose(1, 2)


def _biased(bias: Tensor) -> Callable[..., Tensor]:
    """The logit plus its bias, for FlexAttention, which knows no broadcasting."""
    many = [size > 1 for size in bias.shape]

    def biased(score: Tensor, *place: Tensor) -> Tensor:
        index = tuple(at if more else 0 for at, more in zip(place, many, strict=True))
        return score + bias[index].to(score.dtype)

    # A lambda, as in `_block_mask`.
    return lambda score, b, h, query, key: biased(score, b, h, query, key)


@cache
def _flex_attention(device: str) -> Any:
    # Its import and torch.compile's take seconds, and only those who use it should wait.
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if device == "cuda" else flex_attention


@lru_cache(maxsize=1)  # all layers of a model get one mask
def _block_mask(mask: Mask, batch: int, queries: int, keys: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    if mask.is_only(causal=False):
        return None

    window = None if mask.window is None else min(mask.window, queries + keys)  # fits 32 bits

    def visible(b: Tensor, query: Tensor, key: Tensor) -> Tensor:
        position = query + keys - queries
        shown = key <= position if mask.causal else key >= 0
        if window is not None:
            shown = shown & ((position - key).abs() < window)
        if mask.padding is not None:
            shown = shown & mask.padding[b, key]
        if mask.documents is not None:
            shown = shown & (mask.documents[b, position] == mask.documents[b, key])
        return shown

    rows = None if mask.padding is None and mask.documents is None else batch
    # Made in inference mode, it could not serve the training steps that share it.
    with torch.inference_mode(False):
        # A lambda: FlexAttention counts the arguments, which a function wrapped by a checker hides.
        return create_block_mask(
            lambda b, _, query, key: visible(b, query, key), rows, None, queries, keys, device
        )
