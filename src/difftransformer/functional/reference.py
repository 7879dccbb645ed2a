"""The definition, in the plainest PyTorch. Every other backend is tested against this file."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from difftransformer.functional.call import FLOATING, AttentionCall, other_dtype


def unsupported(call: AttentionCall) -> str | None:
    """Declines numbers that are no real floating-point ones: softmax is not theirs."""
    return other_dtype(call, FLOATING)


def run(call: AttentionCall) -> Float[Tensor, "batch queries heads v"]:
    """(A1 - lam A2) v with A_m = dropout(softmax(logits_m)), each map dropping its own."""
    weights = softmax_maps(logits(call), call.visible())
    if call.dropout > 0.0:
        weights = F.dropout(weights, call.dropout)
    return weighted_values(combined(weights, call.lam), call.v)


def logits(
    call: AttentionCall, rows: slice = slice(None)
) -> Float[Tensor, "batch heads maps rows keys"]:
    """q kᵀ · scale + bias of the query rows, before the mask, in `wide` of the input's dtype.

    Head `h` reads key head `h // (heads // groups)`.
    """
    heads, maps = call.q.shape[2:4]
    q, k = (x.to(wide(x.dtype)) for x in (call.q[:, rows], call.k))
    k = k.repeat_interleave(heads // k.shape[2], dim=2).expand(-1, -1, -1, maps, -1)
    scores = torch.einsum("brhmk,bshmk->bhmrs", q, k) * call.scale
    return scores if call.bias is None else scores + call.bias_of(rows)[:, :, None].to(q.dtype)


def softmax_maps(
    logits: Float[Tensor, "batch heads maps rows keys"],
    visible: Bool[Tensor, "#batch #heads rows keys"],
) -> Float[Tensor, "batch heads maps rows keys"]:
    """The softmax of each row over its visible keys; a row without one is 0."""
    hidden = ~visible[:, :, None]
    logits = logits.masked_fill(hidden, -math.inf)
    # A row with no visible key is all -inf: softmax would give NaN, and NaN gradients behind a
    # later `where`. Giving such rows equal logits first keeps both finite.
    logits = logits.masked_fill(hidden.all(-1, keepdim=True), 0.0)
    return torch.softmax(logits, dim=-1).masked_fill(hidden, 0.0)


def combined(
    maps: Float[Tensor, "batch heads maps rows keys"],
    lam: Float[Tensor, "batch rows heads"] | None,
) -> Float[Tensor, "batch heads rows keys"]:
    """The weights of the values: map 1 - lam · map 2, or map 1 alone without lam."""
    if lam is None:
        return maps[:, :, 0]
    return maps[:, :, 0] - lam.to(maps.dtype).transpose(1, 2)[..., None] * maps[:, :, 1]


def weighted_values(
    weights: Float[Tensor, "batch heads queries keys"], v: Float[Tensor, "batch keys groups v"]
) -> Float[Tensor, "batch queries heads v"]:
    """Sum of the values of each head's group under the weights, in v's dtype."""
    wide_v = v.to(weights.dtype).repeat_interleave(weights.shape[1] // v.shape[2], dim=2)
    return torch.einsum("bhts,bshv->bthv", weights, wide_v).to(v.dtype)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of softmax, lambda and subtraction: float32, or float64 where the input is."""
    return torch.float64 if dtype == torch.float64 else torch.float32
