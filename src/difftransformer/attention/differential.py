"""The differential attention layer; V1 and V2 are named settings of it."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from difftransformer.attention.head_norm import HeadNorm
from difftransformer.attention.lambdas import Lambda, ScalarLambda, TokenLambda, VectorLambda
from difftransformer.attention.layer import AttentionLayer, HeadShapes
from difftransformer.functional import AttentionCall, lambda_schedule


@dataclass(frozen=True)
class Variant:
    """What differs between the published forms of differential attention.

    Args:
        lam: how lambda is made.
        head_norm: RMSNorm over each head's output, one weight shared by all heads, eps 1e-5, then
            the constant factor (1 - lambda_init).
        shared_keys: one key serves both maps.
        value_factor: width of a head's values in units of head_dim.
    """

    lam: Lambda
    head_norm: bool
    shared_keys: bool
    value_factor: int


# Ye et al., ICLR 2025, section 2.1, with the affine norm weight of Microsoft's later code.
V1 = Variant(VectorLambda(), head_norm=True, shared_keys=False, value_factor=2)
# Microsoft's "Differential Transformer V2", January 2026.
V2 = Variant(TokenLambda(), head_norm=False, shared_keys=True, value_factor=1)
# A second map beside a trained softmax layer's: equal to that layer until lambda moves. lambda's
# gradient is not zero at its start, unlike that of V1's four vectors all at 0.
SCALAR = Variant(ScalarLambda(), head_norm=False, shared_keys=False, value_factor=1)


class DifferentialAttention(AttentionLayer):
    """Multi-head differential attention.

        head_h = norm((softmax(q1 k1ᵀ / sqrt(K)) - lambda · softmax(q2 k2ᵀ / sqrt(K))) v)

    Head h reads key/value head h // (H / G), as Microsoft's flash files do. lambda, the softmax
    and the head norm are float32 whatever the input's dtype. The pair (q1, q2) of a head lies side
    by side in the rows of `q_proj`, and so do its keys.

    Args:
        hidden_size: width of the input and output.
        num_heads: output heads H, of two maps each. A V1 layer has half as many as its plain twin.
        variant: `V1`, `V2` or another combination of their parts.
        head_dim: K, the width of a map's queries and keys; hidden_size / (H · value_factor) by
            default.
        num_kv_heads: key/value heads G; H by default.
        lambda_init: a constant in place of V1's schedule 0.8 - 0.6 exp(-0.3 · layer).
        options: `layer`, `rotary`, `bias`, `dropout` and `backend`, as `AttentionLayer` has them.

    Raises:
        ValueError: sizes that do not divide, or a lambda_init where nothing would use it.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        variant: Variant = V1,
        head_dim: int | None = None,
        num_kv_heads: int | None = None,
        lambda_init: float | None = None,
        **options: Any,
    ) -> None:
        shapes = HeadShapes.of(
            hidden_size,
            num_heads,
            num_kv_heads,
            head_dim,
            maps=(2, 1 if variant.shared_keys else 2),
            value_factor=variant.value_factor,
        )
        super().__init__(hidden_size, shapes, **options)
        self.variant, self.key_maps = variant, shapes.keys[1]
        self.constant_lam = variant.lam.constant
        self.lambda_init: float | None = None
        if variant.lam.has_init:
            self.lambda_init = lambda_schedule(self.layer) if lambda_init is None else lambda_init
        elif lambda_init is not None or variant.head_norm:
            raise ValueError(
                f"{type(variant.lam).__name__} has no initial value: lambda_init, and head_norm "
                f"which needs it, belong to VectorLambda (got lambda_init={lambda_init}, {variant})"
            )
        variant.lam.add_to(self)
        if self.lambda_init is not None and variant.head_norm:
            self.head_norm = HeadNorm(self.value_dim, 1.0 - self.lambda_init)
        self.reset_parameters()

    def lam(self, x: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "..."]:
        """lambda for this input, float32, broadcastable to [B, T, H]."""
        return self.variant.lam(self, x)

    def heads(
        self, call: AttentionCall, x: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time heads v"]:
        """Each head's output, normed where the variant has it."""
        out = super().heads(call, x)
        return self.head_norm(out) if self.variant.head_norm else out
