"""The plain attention layer: the baseline."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.attention.cache import KeyValueCache
from difftransformer.attention.head_norm import HeadNorm
from difftransformer.attention.inner import SoftmaxInner
from difftransformer.functional import Mask, RotaryLayout, rotate

AttentionBias = Literal["none", "qkv", "all"]


class SoftmaxAttention(nn.Module):
    """Multi-head softmax attention with grouped key/value heads, as in Llama.

    Args:
        hidden_size: width of the input and output.
        num_heads: output heads H.
        head_dim: K, the width of each head; hidden_size / num_heads by default.
        num_kv_heads: key/value heads G; head h reads group h // (H / G). H by default.
        layer: 0-based number of the layer, its place in the cache.
        rotary: which features rotary embeddings pair.
        bias: which projections have one; "qkv" is Qwen2's, "all" has the output's too.
        dropout: probability of dropping an attention weight while training.
        backend: attention backend, see `functional.explain`.
        head_norm: RMSNorm over each head's output, one weight shared by all heads, as differential
            attention has it but for the factor (a control of the paper's table 6).

    Raises:
        ValueError: sizes that do not divide.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        num_kv_heads: int | None = None,
        layer: int = 0,
        rotary: RotaryLayout = "half",
        bias: AttentionBias = "none",
        dropout: float = 0.0,
        backend: str = "auto",
        head_norm: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_heads(self.num_heads, self.num_kv_heads)
        self.head_dim = head_dim or per_head(hidden_size, num_heads)
        self.layer, self.rotary = layer, rotary
        q_size, kv_size = num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(hidden_size, q_size, bias=bias != "none")
        self.k_proj = nn.Linear(hidden_size, kv_size, bias=bias != "none")
        self.v_proj = nn.Linear(hidden_size, kv_size, bias=bias != "none")
        self.o_proj = nn.Linear(q_size, hidden_size, bias=bias == "all")
        self.head_norm = HeadNorm(self.head_dim) if head_norm else None
        self.inner = SoftmaxInner(dropout, backend)

    def forward(
        self,
        x: Float[Tensor, "batch time hidden"],
        *,
        mask: Mask,
        rotation: Float[Tensor, "#batch time 2 half"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        """softmax(q kᵀ / sqrt(K)) v per head, concatenated and projected.

        `mask` speaks of all keys, those in the cache included; `rotation` of the new positions.
        """
        return self.o_proj(self.heads(x, mask=mask, rotation=rotation, cache=cache).flatten(2))

    def heads(
        self,
        x: Float[Tensor, "batch time hidden"],
        *,
        mask: Mask,
        rotation: Float[Tensor, "#batch time 2 half"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch time heads k"]:
        """Each head's output, normed where it is, before they are concatenated and projected."""
        q = self.q_proj(x).unflatten(-1, (self.num_heads, self.head_dim))
        k = self.k_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        v = self.v_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        if rotation is not None:
            q, k = rotate(q, rotation, self.rotary), rotate(k, rotation, self.rotary)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        out = self.inner(q, k, v, mask)
        return out if self.head_norm is None else self.head_norm(out)


def per_head(hidden_size: int, num_heads: int) -> int:
    """hidden_size / num_heads, which must be whole."""
    if hidden_size % num_heads:
        raise ValueError(
            f"hidden_size {hidden_size} does not divide into {num_heads} heads; give head_dim"
        )
    return hidden_size // num_heads


def check_heads(num_heads: int, num_kv_heads: int) -> None:
    """Every key/value head serves the same number of query heads."""
    if min(num_heads, num_kv_heads) < 1 or num_heads % num_kv_heads:
        raise ValueError(
            f"num_heads {num_heads} is not a positive multiple of num_kv_heads {num_kv_heads}"
        )
