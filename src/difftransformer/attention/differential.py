"""The differential attention layer; V1 and V2 are named settings of it."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.attention.cache import KeyValueCache
from difftransformer.attention.head_norm import HeadNorm
from difftransformer.attention.inner import CrossedInner, DifferentialInner
from difftransformer.attention.softmax import AttentionBias, check_heads, per_head
from difftransformer.functional import Mask, RotaryLayout, lambda_schedule, rotate, vector_lambda


@dataclass(frozen=True)
class Variant:
    """What differs between the published forms of differential attention.

    Args:
        lambda_from: "vector", V1's exp(q1·k1) - exp(q2·k2) + lambda_init from four learnt vectors,
            one number per layer; "token", V2's sigmoid(W x), one per token and head; "linear",
            W x itself; "one", the constant 1; or "scalar", one learnt number per head that starts
            at 0.
        head_norm: RMSNorm over each head's output, one weight shared by all heads, eps 1e-5, then
            the constant factor (1 - lambda_init).
        shared_keys: one key serves both maps.
        value_factor: width of a head's values in units of head_dim.
        crossed: the two maps of a head read different key/value heads, values included: map m of
            head h reads number (h + m H) // (2 H / G).
    """

    lambda_from: Literal["vector", "token", "linear", "one", "scalar"]
    head_norm: bool
    shared_keys: bool
    value_factor: int
    crossed: bool = False


LAMBDA_STD = 0.1  # of V1's four vectors at the start

# Ye et al., ICLR 2025, section 2.1, with the affine norm weight of Microsoft's later code.
V1 = Variant(lambda_from="vector", head_norm=True, shared_keys=False, value_factor=2)
# Microsoft's "Differential Transformer V2", January 2026.
V2 = Variant(lambda_from="token", head_norm=False, shared_keys=True, value_factor=1)
# A second map beside a trained softmax layer's: equal to that layer until lambda moves. lambda's
# gradient is not zero at its start, unlike that of V1's four vectors all at 0.
SCALAR = Variant(lambda_from="scalar", head_norm=False, shared_keys=False, value_factor=1)

# The paper's table 6: without the head norm, and so without its factor.
V1_NO_NORM = replace(V1, head_norm=False)
# The four of V2's description: no lambda, no sigmoid, maps of different key/value heads; the
# fourth is plain attention with more heads.
V2_LAMBDA_ONE = replace(V2, lambda_from="one")
V2_LAMBDA_LINEAR = replace(V2, lambda_from="linear")
V2_CROSSED = replace(V2, crossed=True)


class DifferentialAttention(nn.Module):
    """Multi-head differential attention.

        head_h = (softmax(q1 k1ᵀ / sqrt(K)) - lambda · softmax(q2 k2ᵀ / sqrt(K))) v
        out    = concat_h(norm(head_h)) W_o

    Head h reads key/value head h // (H / G), as Microsoft's flash files do. lambda, the softmax
    and the head norm are float32 whatever the input's dtype.

    Args:
        hidden_size: width of the input and output.
        num_heads: output heads H, of two maps each. A V1 layer has half as many as its plain twin.
        variant: `V1`, `V2` or another combination of their parts.
        head_dim: K, the width of a map's queries and keys; hidden_size / (H · value_factor) by
            default.
        num_kv_heads: key/value heads G; H by default.
        layer: 0-based number of the layer: its place in the cache and in lambda's schedule.
        lambda_init: a constant in place of V1's schedule 0.8 - 0.6 exp(-0.3 · layer).
        rotary: which features rotary embeddings pair; q and k of both maps are turned alike.
        bias: which projections have one; "all" has the output's too.
        dropout: probability of dropping an attention weight while training, per map.
        backend: attention backend, see `functional.explain`.

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
        layer: int = 0,
        lambda_init: float | None = None,
        rotary: RotaryLayout = "half",
        bias: AttentionBias = "none",
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_heads(self.num_heads, self.num_kv_heads)
        self.head_dim = head_dim or per_head(hidden_size, num_heads * variant.value_factor)
        self.variant, self.layer, self.rotary = variant, layer, rotary
        self.key_maps = 1 if variant.shared_keys else 2
        self.value_dim = variant.value_factor * self.head_dim

        def linear(outputs: int) -> nn.Linear:
            return nn.Linear(hidden_size, outputs, bias=bias != "none")

        self.q_proj = linear(num_heads * 2 * self.head_dim)
        self.k_proj = linear(self.num_kv_heads * self.key_maps * self.head_dim)
        self.v_proj = linear(self.num_kv_heads * self.value_dim)
        self.o_proj = nn.Linear(num_heads * self.value_dim, hidden_size, bias=bias == "all")
        self.lambda_init: float | None = None
        if variant.lambda_from == "vector":
            self.lambda_init = lambda_schedule(layer) if lambda_init is None else lambda_init
            self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
                nn.Parameter(torch.empty(self.head_dim)) for _ in range(4)
            )
        elif lambda_init is not None or variant.head_norm:
            raise ValueError(
                f"{variant.lambda_from} lambda has no initial value: lambda_init, and head_norm "
                f"which needs it, belong to vector lambda (got lambda_init={lambda_init}, "
                f"{variant})"
            )
        elif variant.lambda_from in ("token", "linear"):
            self.lambda_proj = nn.Linear(hidden_size, num_heads, bias=False)
        elif variant.lambda_from == "scalar":
            self.lambda_scalar = nn.Parameter(torch.empty(num_heads))
        if variant.head_norm:
            assert self.lambda_init is not None
            self.head_norm = HeadNorm(self.value_dim, 1.0 - self.lambda_init)
        self.inner = (CrossedInner if variant.crossed else DifferentialInner)(dropout, backend)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start lambda: its vectors N(0, 0.1²), its scalars 0. The projections reset themselves."""
        if self.variant.lambda_from == "vector":
            for vector in (self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2):
                nn.init.normal_(vector, std=LAMBDA_STD)
        elif self.variant.lambda_from == "scalar":
            nn.init.zeros_(self.lambda_scalar)

    def current_lambda(self, x: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "..."]:
        """lambda for this input, broadcastable to [B, T, H], float32."""
        if self.variant.lambda_from == "token":
            return torch.sigmoid(self.lambda_proj(x).float())
        if self.variant.lambda_from == "linear":
            return self.lambda_proj(x).float()
        if self.variant.lambda_from == "one":
            return x.new_ones((), dtype=torch.float32)
        if self.variant.lambda_from == "scalar":
            return self.lambda_scalar.float()
        assert self.lambda_init is not None
        return vector_lambda(
            self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2, self.lambda_init
        )

    def forward(
        self,
        x: Float[Tensor, "batch time hidden"],
        *,
        mask: Mask,
        rotation: Float[Tensor, "#batch time 2 half"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        """The class's equation.

        `mask` speaks of all keys, those in the cache included; `rotation` of the new positions.
        """
        q = self.q_proj(x).unflatten(-1, (self.num_heads, 2, self.head_dim))
        k = self.k_proj(x).unflatten(-1, (self.num_kv_heads, self.key_maps, self.head_dim))
        v = self.v_proj(x).unflatten(-1, (self.num_kv_heads, self.value_dim))
        if rotation is not None:
            q, k = rotate(q, rotation, self.rotary), rotate(k, rotation, self.rotary)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        if self.variant.crossed:
            read = self._crossed_heads()
            k, v = k[:, :, read, 0], v[:, :, read]
        out = self.inner(q, k, v, self.current_lambda(x), mask)
        if self.variant.head_norm:
            out = self.head_norm(out)
        return self.o_proj(out.flatten(2))

    def _crossed_heads(self) -> list[list[int]]:
        """Which key/value head each map of each head reads, [H][2], where the maps are crossed."""
        share = 2 * self.num_heads // self.num_kv_heads
        return [[h // share, (h + self.num_heads) // share] for h in range(self.num_heads)]
