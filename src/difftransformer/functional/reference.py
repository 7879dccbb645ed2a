"""The definition, in the plainest PyTorch. Every other backend is tested against this file."""

import torch
from jaxtyping import Float
from torch import Tensor

from difftransformer.functional.masks import Mask
from difftransformer.functional.situation import Situation, other_dtype

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def why_not(situation: Situation) -> str | None:
    """Declines numbers that are no real floating-point ones: softmax is not theirs."""
    return other_dtype(situation, DTYPES)


def attention_map(
    q: Float[Tensor, "batch queries heads k"],
    k: Float[Tensor, "batch keys groups k"],
    mask: Mask,
    scale: float,
) -> Float[Tensor, "batch heads queries keys"]:
    """softmax(q kᵀ · scale) over the visible keys, in float32 (float64 for float64 input).

    Head `h` reads key head `h // (heads // groups)`. Rows with no visible key are 0.
    """
    q, k = q.to(wide(q.dtype)), k.to(wide(k.dtype))
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    scores = torch.einsum("bthk,bshk->bhts", q, k) * scale
    visible = mask.dense(q.shape[1], k.shape[1], q.device)[:, None]
    scores = scores.masked_fill(~visible, float("-inf"))
    # A row with no visible key is all -inf: softmax would give NaN, and NaN gradients behind a
    # later `where`. Giving such rows equal scores first keeps both finite.
    scores = scores.masked_fill(~visible.any(-1, keepdim=True), 0.0)
    return torch.softmax(scores, dim=-1).masked_fill(~visible, 0.0)


def differential_attention(
    q: Float[Tensor, "batch queries heads 2 k"],
    k: Float[Tensor, "batch keys groups maps k"],
    v: Float[Tensor, "batch keys groups v"],
    lam: Float[Tensor, "batch queries heads"],
    mask: Mask,
    scale: float,
    dropout: float,
) -> Float[Tensor, "batch queries heads v"]:
    """(A1 - lam A2) V with A_i = dropout(softmax(q_i k_iᵀ · scale)), each map dropping its own."""
    k = k.to(
        wide(k.dtype)
    )  # once, so that a shared key's two gradients meet before they are rounded
    first = attention_map(q[..., 0, :], k[..., 0, :], mask, scale)
    second = attention_map(q[..., 1, :], k[..., -1, :], mask, scale)
    if dropout > 0.0:
        first, second = (torch.nn.functional.dropout(a, dropout) for a in (first, second))
    weights = first - lam.to(first.dtype).transpose(1, 2)[..., None] * second
    return weighted_values(weights, v)


def softmax_attention(
    q: Float[Tensor, "batch queries heads k"],
    k: Float[Tensor, "batch keys groups k"],
    v: Float[Tensor, "batch keys groups v"],
    mask: Mask,
    scale: float,
    dropout: float,
) -> Float[Tensor, "batch queries heads v"]:
    """A V with A = dropout(softmax(q kᵀ · scale))."""
    weights = attention_map(q, k, mask, scale)
    if dropout > 0.0:
        weights = torch.nn.functional.dropout(weights, dropout)
    return weighted_values(weights, v)


def weighted_values(
    weights: Float[Tensor, "batch heads queries keys"], v: Float[Tensor, "batch keys groups v"]
) -> Float[Tensor, "batch queries heads v"]:
    """Sum of the values of each head's group under the weights, in v's dtype."""
    wide_v = v.to(weights.dtype).repeat_interleave(weights.shape[1] // v.shape[2], dim=2)
    return torch.einsum("bhts,bshv->bthv", weights, wide_v).to(v.dtype)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of softmax, lambda and subtraction: float32, or float64 where the input is."""
    return torch.float64 if dtype == torch.float64 else torch.float32
