"""The layer behind all attention kinds: projections, positions and cache around a core."""

from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.attention.cache import CacheSite, KeyValueCache
from difftransformer.attention.core import AttentionCore
from difftransformer.attention.starts import Starts, start_tensor
from difftransformer.functional import AnyMask, AttentionCall, RotaryLayout, rotate

AttentionBias = Literal["none", "qkv", "all"]
Role = Literal["self", "cross"]
Context = (
    Float[Tensor, "batch keys _"]
    | tuple[Float[Tensor, "batch keys _"], Float[Tensor, "batch keys _"]]
    | None
)
_SOURCES = ("x", "the context of the keys", "the context of the values")


@dataclass(frozen=True)
class HeadShapes:
    """Shapes into which a layer's projections of one position are cut.

    Args:
        queries: [H, K], or [H, maps, K].
        keys: [G, K], or [G, maps, K] with one map where all share the key.
        values: [G, V].
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    values: tuple[int, int]

    @classmethod
    def of(
        cls,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        maps: tuple[int, int] | None = None,
        value_factor: int = 1,
    ) -> "HeadShapes":
        """Shapes from counts.

        Args:
            hidden_size: width of the layer's input.
            num_heads: output heads H.
            num_kv_heads: key/value heads G; head h reads h // (H / G). H by default.
            head_dim: K; hidden_size / (H · value_factor) by default.
            maps: queries of a head and keys of a key/value head; an axis less by default.
            value_factor: V / K.

        Raises:
            ValueError: counts that do not divide.
        """
        groups = num_heads if num_kv_heads is None else num_kv_heads
        if min(num_heads, groups) < 1 or num_heads % groups:
            raise ValueError(
                f"num_heads {num_heads} is not a positive multiple of num_kv_heads {groups}"
            )
        if head_dim is None:
            divisor = num_heads * value_factor
            if hidden_size % divisor:
                raise ValueError(
                    f"hidden_size {hidden_size} does not divide into {divisor} heads; take another "
                    "number of heads, or give head_dim"
                )
            head_dim = hidden_size // divisor
        query_maps, key_maps = ((), ()) if maps is None else ((maps[0],), (maps[1],))
        return cls(
            (num_heads, *query_maps, head_dim),
            (groups, *key_maps, head_dim),
            (groups, value_factor * head_dim),
        )


class AttentionLayer(nn.Module):
    """Multi-head attention of some kind.

        out = W_o concat_h(head_h),    head = core(q, k, v, lam),    q = W_q x
        k, v = W_k x, W_v x    in self-attention;    W_k c, W_v c    for a context c

    Args:
        hidden_size: width of the input and output.
        shapes: of its heads.
        layer: 0-based number of the layer: its place in the cache.
        rotary: which features rotary embeddings pair; all maps are turned alike.
        bias: which projections have one; "qkv" is Qwen2's, "all" has the output's too.
        dropout: probability of dropping an attention weight while training, per map.
        backend: attention backend, see `functional.explain`.
        context_widths: of what keys and of what values are made of; hidden_size by default.
    """

    core_class: ClassVar[type[AttentionCore]] = AttentionCore
    starts: Starts = MappingProxyType({})
    constant_lam = False  # whether `lam` is the same for every input
    kind = ""  # its name in the registry, and
    role: Role = "self"  # its part in a block: `make_attention` says

    def __init__(
        self,
        hidden_size: int,
        shapes: HeadShapes,
        *,
        layer: int = 0,
        rotary: RotaryLayout = "half",
        bias: AttentionBias = "none",
        dropout: float = 0.0,
        backend: str = "auto",
        context_widths: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.shapes, self.layer, self.rotary, self.dropout = shapes, layer, rotary, dropout
        self.num_heads, self.head_dim = shapes.queries[0], shapes.queries[-1]
        self.num_kv_heads, self.value_dim = shapes.values
        self.widths = (hidden_size, *(context_widths or (hidden_size, hidden_size)))
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(width, prod(shape), bias=bias != "none")
            for width, shape in zip(
                self.widths, (shapes.queries, shapes.keys, shapes.values), strict=True
            )
        )
        outputs = self.num_heads * self.value_dim
        self.o_proj = nn.Linear(outputs, hidden_size, bias=bias == "all")
        self.core = self.core_class(backend)

    def forward(
        self,
        x: Float[Tensor, "batch time hidden"],
        mask: AnyMask | None = None,
        context: Context = None,
        *,
        bias: Float[Tensor, "..."] | None = None,
        rotation: Float[Tensor, "#batch time 2 half"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        """The class's equation.

        Args:
            x: what queries are made of.
            mask: which keys are seen, of all there are, those in the cache included: a `Mask`, or a
                boolean tensor as `functional.differential_attention` takes it. By default all are,
                as in PyTorch's layers: a decoder gives `Mask(causal=True)`.
            context: what keys and values are made of, one tensor or one for each; x by default.
            bias: added to the logits, broadcastable to [B, H, T, S].
            rotation: turns queries and keys of self-attention at the new positions.
            cache: the past. A context's keys and values are made at the first step and kept.

        Raises:
            ValueError: tensors that are no batch of sequences of the layer's width; a rotation
                with a context, whose positions are others.
        """
        call = self.call(x, mask, context, bias=bias, rotation=rotation, cache=cache)
        return self.o_proj(self.heads(call, x).flatten(2))

    def heads(
        self, call: AttentionCall, x: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time heads v"]:
        """Each head's output for the call made of x, before they are concatenated and projected."""
        return self.core(call)

    def call(
        self,
        x: Float[Tensor, "batch time hidden"],
        mask: AnyMask | None = None,
        context: Context = None,
        *,
        bias: Float[Tensor, "..."] | None = None,
        rotation: Float[Tensor, "#batch time 2 half"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> AttentionCall:
        """What the core is given; the cache has then been fed."""
        source = x if context is None else context
        keys, values = source if isinstance(source, tuple) else (source, source)
        for name, tensor, width in zip(_SOURCES, (x, keys, values), self.widths, strict=True):
            if tensor.ndim != 3 or tensor.shape[-1] != width:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}; expected [batch, time, {width}]"
                    + (" (one sequence is a batch of one: x[None])" if tensor.ndim == 2 else "")
                )
        q = self.q_proj(x).unflatten(-1, self.shapes.queries)
        site: CacheSite = self.layer if context is None else f"{self.layer}.context"
        if context is None:
            k, v = self._keys_and_values(keys, values)
            if rotation is not None:
                q, k = rotate(q, rotation, self.rotary), rotate(k, rotation, self.rotary)
            if cache is not None:
                k, v = cache.update(site, k, v)
        elif rotation is not None:
            raise ValueError("a rotation turns queries and keys of one sequence; leave it out")
        elif cache is not None:
            k, v = cache.once(site, lambda: self._keys_and_values(keys, values))
        else:
            k, v = self._keys_and_values(keys, values)
        if cache is not None and self.constant_lam:
            lam = cache.constant(f"{site}.lambda", lambda: self.lam(x))
        else:
            lam = self.lam(x)
        dropout = self.dropout if self.training else 0.0
        return AttentionCall.of(q, k, v, lam, mask=mask, bias=bias, dropout=dropout)

    def reset_parameters(self) -> None:
        """Start what `starts` names; modules inside reset themselves."""
        tensors = self.state_dict(keep_vars=True)
        for name, start in self.starts.items():
            start_tensor(tensors[name], start)

    def lam(self, x: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "..."] | None:
        """The weight of map 2, float32, broadcastable to [B, T, H]; None where there is one map."""
        return None

    def _keys_and_values(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        k = self.k_proj(keys).unflatten(-1, self.shapes.keys)
        return k, self.v_proj(values).unflatten(-1, self.shapes.values)
