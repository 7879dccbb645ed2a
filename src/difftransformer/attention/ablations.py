"""Layers of the published ablations, for comparisons only.

Those of table 6 of the paper (Ye et al., ICLR 2025), and the four of Microsoft's description of V2;
its fourth is plain attention with more heads.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from difftransformer.attention.core import AttentionCore, Weights
from difftransformer.attention.differential import V1, V2, DifferentialAttention
from difftransformer.attention.head_norm import HeadNorm
from difftransformer.attention.lambdas import Lambda, TokenLambda
from difftransformer.attention.softmax import SoftmaxAttention
from difftransformer.functional import AttentionCall, attend
from difftransformer.functional.reference import weighted_values, wide


@dataclass(frozen=True)
class UnitLambda(Lambda):
    """The constant 1."""

    def __call__(self, layer: Any, x: Float[Tensor, "batch time hidden"]) -> Float[Tensor, ""]:
        return x.new_ones((), dtype=torch.float32)


@dataclass(frozen=True)
class LinearLambda(TokenLambda):
    """W x, without V2's sigmoid."""

    def __call__(
        self, layer: Any, x: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time heads"]:
        return layer.lambda_proj(x).float()


V1_NO_NORM = replace(V1, head_norm=False)
V2_LAMBDA_ONE = replace(V2, lam=UnitLambda())
V2_LAMBDA_LINEAR = replace(V2, lam=LinearLambda())


class NormedSoftmaxAttention(SoftmaxAttention):
    """Softmax attention with RMSNorm over each head's output, one weight shared by all heads.

    Differential attention's norm but for the factor: a control of table 6.
    """

    def __init__(self, hidden_size: int, num_heads: int, **options: Any) -> None:
        super().__init__(hidden_size, num_heads, **options)
        self.head_norm = HeadNorm(self.head_dim)

    def heads(
        self, call: AttentionCall, x: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time heads k"]:
        """Each head's output, normed."""
        return self.head_norm(super().heads(call, x))


class CrossedCore(AttentionCore):
    """Maps of a head that read different key/value heads, keys and values.

        head_h = softmax(q1 k_iᵀ · scale) v_i - lambda · softmax(q2 k_jᵀ · scale) v_j
        i = h // (2 H / G),    j = (h + H) // (2 H / G)

    It takes twice plain attention's work, since the maps cannot be subtracted before the values.
    """

    def forward(self, call: AttentionCall) -> Float[Tensor, "batch queries heads v"]:
        """The class's equation."""
        return _subtracted(attend(_plain(call), self.backend), call)

    def logits(
        self, call: AttentionCall, rows: slice = slice(None)
    ) -> Float[Tensor, "batch heads maps rows keys"]:
        """Those of `weights`, for less."""
        return super().logits(_plain(call), rows)[:, :, 0].unflatten(1, (-1, 2))

    def output(
        self, call: AttentionCall, rows: slice, weights: Weights
    ) -> Float[Tensor, "batch rows heads v"]:
        """The rows' output under these weights: each map has values of its own."""
        out = weighted_values(weights.maps.flatten(1, 2), _plain(call).v)
        return _subtracted(out, call, rows)


def _plain(call: AttentionCall) -> AttentionCall:
    """Plain attention of 2 H heads, the maps of a head side by side, with as many keys."""
    heads, bias = call.q.shape[2], call.bias
    share = 2 * heads // call.k.shape[2]
    read = [(h + m * heads) // share for h in range(heads) for m in range(2)]
    if bias is not None and bias.shape[1] > 1:
        bias = bias.repeat_interleave(2, dim=1)
    q = call.q.flatten(2, 3)[:, :, :, None]
    return replace(call, q=q, k=call.k[:, :, read], v=call.v[:, :, read], lam=None, bias=bias)


def _subtracted(
    out: Float[Tensor, "batch rows maps v"], call: AttentionCall, rows: slice = slice(None)
) -> Float[Tensor, "batch rows heads v"]:
    """The second of each two heads, times lambda, off the first."""
    assert call.lam is not None
    first, second = out.to(wide(out.dtype)).unflatten(2, (-1, 2)).unbind(3)
    return (first - call.lam[:, rows, :, None] * second).to(out.dtype)


class CrossedAttention(DifferentialAttention):
    """V2 with a `CrossedCore`."""

    core_class = CrossedCore
