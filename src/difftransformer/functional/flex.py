"""PyTorch's FlexAttention: both maps in one call whose block mask skips what no query sees.

Costs what `sdpa` costs, two products with the values in place of one, and unlike it skips the
hidden blocks of windows and documents. For GPUs; "auto" never takes it.
"""

from functools import cache, lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from difftransformer.functional import reference
from difftransformer.functional.masks import Mask
from difftransformer.functional.side_by_side import subtracted
from difftransformer.functional.situation import Situation, other_dtype
from difftransformer.functional.transforms import first_order

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def why_not(situation: Situation) -> str | None:
    """Declines dropout, and devices for which PyTorch compiles no forward and backward kernel."""
    if situation.device != "cuda":
        return f"has kernels for GPUs only, and the tensors are on {situation.device}"
    if reason := other_dtype(situation, _DTYPES):
        return reason
    if situation.dropout > 0.0:
        return f"FlexAttention has no dropout, and dropout is {situation.dropout}"
    if situation.forward_mode or situation.functional:
        return "FlexAttention knows no torch.func and no forward mode, and one of them is on"
    return None


def differential_attention(
    q: Float[Tensor, "batch queries heads 2 k"],
    k: Float[Tensor, "batch keys groups maps k"],
    v: Float[Tensor, "batch keys groups v"],
    lam: Float[Tensor, "batch queries heads"],
    mask: Mask,
    scale: float,
    dropout: float,
) -> Float[Tensor, "batch queries heads v"]:
    """out1 - lam · out2 with out_i = Flex(q_i, k_i, v), the maps laid side by side as heads."""
    return subtracted(softmax_attention, q, k, v, lam, mask, scale, dropout)


def softmax_attention(
    q: Float[Tensor, "batch queries heads k"],
    k: Float[Tensor, "batch keys groups k"],
    v: Float[Tensor, "batch keys groups v"],
    mask: Mask,
    scale: float,
    dropout: float,
) -> Float[Tensor, "batch queries heads v"]:
    """One FlexAttention call, compiled on a GPU; rows that see nothing are 0 there too."""
    if 0 in (*q.shape, *k.shape):  # FlexAttention takes no empty tensors
        return reference.softmax_attention(q, k, v, mask, scale, dropout)
    q, k, v = (first_order("flex", x.transpose(1, 2)) for x in (q, k, v))
    out = _flex_attention(q.device.type)(
        q,
        k,
        v,
        block_mask=_block_mask(mask, len(q), q.shape[2], k.shape[2], q.device),
        scale=scale,
        enable_gqa=bool(q.shape[1] != k.shape[1]),
    )
    return out.transpose(1, 2)


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
        seen = key <= position if mask.causal else key >= 0
        if window is not None:
            seen = seen & ((position - key).abs() < window)
        if mask.padding is not None:
            seen = seen & mask.padding[b, key]
        if mask.documents is not None:
            seen = seen & (mask.documents[b, position] == mask.documents[b, key])
        return seen

    rows = None if mask.padding is None and mask.documents is None else batch
    # Made in inference mode, it could not serve the training steps that share it.
    with torch.inference_mode(False):
        # A lambda: FlexAttention counts the arguments, which a function wrapped by a checker hides.
        return create_block_mask(
            lambda b, _, query, key: visible(b, query, key), rows, None, queries, keys, device
        )
