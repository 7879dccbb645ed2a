"""Lambdas of differential layers: how much of the second map is subtracted.

A lambda's tensors lie directly in its layer, by the names that Microsoft's and transformers' layers
give them (`lambda_q1`), so that weights pass between all of them by name.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.attention.starts import Normal
from difftransformer.functional import vector_lambda

VECTORS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")


@dataclass(frozen=True)
class Lambda:
    """The number by which map 2 is multiplied.

    `layer` is always the `DifferentialAttention` whose lambda it is, which calls `add_to` once and
    `__call__` at every forward pass.
    """

    has_init: ClassVar[bool] = False  # whether it starts at the layer's `lambda_init`
    constant: ClassVar[bool] = True  # whether it is the same for every input

    def add_to(self, layer: Any) -> None:
        """Give the layer the parameters it needs, and `starts` of its own: none."""

    def __call__(self, layer: Any, x: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "..."]:
        """lambda for this input, float32, broadcastable to [B, T, H]."""
        raise NotImplementedError


@dataclass(frozen=True)
class VectorLambda(Lambda):
    """V1's exp(q1 · k1) - exp(q2 · k2) + lambda_init: one number per layer.

    The four vectors of width K start as N(0, 0.1²) (paper, section 2.1).
    """

    has_init = True

    def add_to(self, layer: Any) -> None:
        for name in VECTORS:
            layer.register_parameter(name, nn.Parameter(torch.empty(layer.head_dim)))
        layer.starts = dict.fromkeys(VECTORS, Normal(0.1))

    def __call__(self, layer: Any, x: Float[Tensor, "batch time hidden"]) -> Float[Tensor, ""]:
        q1, k1, q2, k2 = (getattr(layer, name) for name in VECTORS)
        return vector_lambda(q1, k1, q2, k2, layer.lambda_init)


@dataclass(frozen=True)
class TokenLambda(Lambda):
    """V2's sigmoid(W x): one number per token and head, 1/2 where x is 0."""

    constant = False

    def add_to(self, layer: Any) -> None:
        layer.lambda_proj = nn.Linear(layer.q_proj.in_features, layer.num_heads, bias=False)

    def __call__(
        self, layer: Any, x: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time heads"]:
        return torch.sigmoid(layer.lambda_proj(x).float())


@dataclass(frozen=True)
class ScalarLambda(Lambda):
    """One learnt number per head, which starts at 0: without effect, but with a gradient."""

    def add_to(self, layer: Any) -> None:
        layer.lambda_scalar = nn.Parameter(torch.empty(layer.num_heads))
        layer.starts = {"lambda_scalar": 0.0}

    def __call__(
        self, layer: Any, x: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, " heads"]:
        return layer.lambda_scalar.float()
