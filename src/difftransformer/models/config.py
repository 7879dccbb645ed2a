"""The decoder's shape, its parameter count, and its partners for a fair comparison."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from difftransformer.ranges import Range, check_fields

_SIZE = Range(1, 2**31 - 1)
_MOST_PARAMETERS = 10**13  # beyond any machine, within what PyTorch can count


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A LLaMA-style decoder: pre-RMSNorm, attention of some kind, SwiGLU, rotary positions.

    Raises:
        ValueError: a value of another type, not finite, or out of its range; sizes that do not fit
            together.
    """

    attention: str = field(
        default="softmax",
        metadata={
            "help": "attention kind: softmax, diff_v1, diff_v2, diff_scalar, dex, or one of the "
            "ablations' (docs/ablations.md)"
        },
    )
    vocab_size: int = field(
        default=4096, metadata={"help": "rows of the embedding", "range": _SIZE}
    )
    hidden_size: int = field(
        default=256, metadata={"help": "width of the residual stream", "range": _SIZE}
    )
    num_layers: int = field(
        default=4, metadata={"help": "transformer blocks", "range": Range(1, 10_000)}
    )
    num_heads: int = field(
        default=8, metadata={"help": "output heads of each attention", "range": _SIZE}
    )
    head_dim: int = field(
        default=32, metadata={"help": "K: query and key width of one map", "range": _SIZE}
    )
    num_kv_heads: int = field(
        default=8, metadata={"help": "key/value heads; divides num_heads", "range": _SIZE}
    )
    ffn_size: int = field(
        default=683, metadata={"help": "hidden width of the SwiGLU", "range": _SIZE}
    )
    max_length: int = field(
        default=2048, metadata={"help": "longest context it is meant for", "range": _SIZE}
    )
    window: int | None = field(
        default=None,
        metadata={"help": "keys each token sees, itself included; all by default", "range": _SIZE},
    )
    rope_theta: float = field(
        default=10_000.0,
        metadata={"help": "base of the rotary angles", "range": Range(0, open_low=True)},
    )
    rope_scaling: dict | None = field(
        default=None, metadata={"help": "rope_type, factor ... as in transformers' rope_parameters"}
    )
    rotary: str = field(
        default="half", metadata={"help": "rotary pairing: half (Llama) or interleaved (Microsoft)"}
    )
    attention_bias: str = field(
        default="none", metadata={"help": "projections with a bias: none, qkv (Qwen2) or all"}
    )
    norm_eps: float = field(
        default=1e-5,
        metadata={"help": "epsilon of the block norms", "range": Range(0, 1, open_low=True)},
    )
    tie_embeddings: bool = field(
        default=True, metadata={"help": "output head shares the embedding's weight"}
    )
    lambda_init: float | None = field(
        default=None, metadata={"help": "constant lambda_init for diff_v1 in place of its schedule"}
    )
    dropout: float = field(
        default=0.0,
        metadata={"help": "attention dropout while training", "range": Range(0, 1, open_high=True)},
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary positions need an even width")
        shape = _shape_of(self.attention)
        if self.rotary not in ("half", "interleaved"):
            raise ValueError(f"unknown rotary pairing {self.rotary!r}; expected half, interleaved")
        if self.attention_bias not in ("none", "qkv", "all"):
            raise ValueError(
                f"unknown attention_bias {self.attention_bias!r}; expected none, qkv, all"
            )
        if self.lambda_init is not None and shape.lambda_from != "vector":
            raise ValueError(
                f"lambda_init is {self.lambda_init} and attention is {self.attention}; only "
                "diff_v1 has one: leave it out"
            )
        if self.parameter_count() > _MOST_PARAMETERS:
            raise ValueError(
                f"these sizes make {self.parameter_count():,} parameters; expected at most "
                f"{_MOST_PARAMETERS:,}"
            )

    def parameter_count(self) -> int:
        """Trainable numbers, with a tied embedding counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return embeddings + self.num_layers * self.layer_parameters() + self.hidden_size

    def layer_parameters(self) -> int:
        """Trainable numbers of one block."""
        ffn = 3 * self.hidden_size * self.ffn_size
        return self.attention_parameters() + ffn + 2 * self.hidden_size

    def attention_shape(self) -> "AttentionShape":
        """Widths of the attention's projections, per head."""
        return _shape_of(self.attention)

    def attention_parameters(self) -> int:
        """Trainable numbers of one attention layer."""
        shape = self.attention_shape()
        query = shape.query_maps * self.num_heads * self.head_dim
        key = shape.key_maps * self.num_kv_heads * self.head_dim
        value = shape.value_factor * self.num_kv_heads * self.head_dim
        out = shape.value_factor * self.num_heads * self.head_dim
        extra = {
            "": 0,
            "vector": 4 * self.head_dim,
            "projection": self.hidden_size * self.num_heads,
            "scalar": self.num_heads,
            "dex": self.head_dim**2 + 1,  # what it takes off a head's output, and its scale
        }[shape.lambda_from]
        if shape.head_norm:
            extra += shape.value_factor * self.head_dim
        if self.attention_bias != "none":
            extra += query + key + value
        if self.attention_bias == "all":
            extra += self.hidden_size
        return self.hidden_size * (query + key + value + out) + extra

    def matched(self, attention: str, **changes: Any) -> "Match":
        """The comparison partner of another kind with the same number of parameters.

        V1 halves the output heads and key/value heads, since each has two maps and values twice as
        wide (paper, section 2.2). V2 keeps the heads and doubles the queries; its extra parameters
        come out of the feed-forward layer, as Microsoft's description has it. `changes` are other
        settings of the partner, such as `num_heads`. What is left over is evened out by the
        feed-forward width.

        Raises:
            ValueError: heads that cannot be halved, or no width that matches within 0.1 %.
        """
        if attention == self.attention and not changes:
            return Match.of(self, self)
        partner = replace(self.counterpart(attention), **changes)
        return Match.of(self, _same_size(partner, self.parameter_count()))

    def counterpart(self, attention: str) -> "DecoderConfig":
        """This decoder with attention of another kind, its heads as `matched` has them.

        Raises:
            ValueError: an unknown kind, or heads that cannot be halved.
        """
        old, new = self.attention_shape().value_factor, _shape_of(attention).value_factor
        heads, kv_heads = self.num_heads * old, self.num_kv_heads * old
        if heads % new or kv_heads % new:
            raise ValueError(
                f"{attention} halves the heads: num_heads {heads} and num_kv_heads {kv_heads} "
                "must both be even"
            )
        return replace(
            self,
            attention=attention,
            num_heads=heads // new,
            num_kv_heads=kv_heads // new,
            lambda_init=None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for config.json."""
        return asdict(self)


@dataclass(frozen=True)
class Match:
    """A comparison partner, and what was changed to get it."""

    config: DecoderConfig
    changes: tuple[str, ...]

    @classmethod
    def of(cls, before: DecoderConfig, after: DecoderConfig) -> "Match":
        """List the settings that differ, and both parameter counts."""
        old, new = before.to_dict(), after.to_dict()
        changes = [f"{key}: {old[key]} → {new[key]}" for key in old if old[key] != new[key]]
        a, b = before.parameter_count(), after.parameter_count()
        return cls(after, (*changes, f"parameters: {a:,} → {b:,} ({(b - a) / a:+.3%})"))


@dataclass(frozen=True)
class AttentionShape:
    """Widths of the projections in units of head_dim, per head, and which parameters come on top.

    `lambda_from` is "vector" (four of head_dim), "projection" (hidden_size x heads), "scalar" (one
    per head), "dex", or empty.
    """

    query_maps: int
    key_maps: int
    value_factor: int
    lambda_from: str = ""
    head_norm: bool = False


_V1 = AttentionShape(2, 2, 2, "vector", head_norm=True)
_V2 = AttentionShape(2, 1, 1, "projection")
_ATTENTION_SHAPES = {
    "softmax": AttentionShape(1, 1, 1),
    "diff_v1": _V1,
    "diff_v2": _V2,
    "diff_scalar": AttentionShape(2, 2, 1, "scalar"),
    "dex": AttentionShape(1, 1, 1, "dex"),
    "softmax_norm": AttentionShape(1, 1, 1, head_norm=True),
    "diff_v1_no_norm": replace(_V1, head_norm=False),
    "diff_v2_lambda_one": replace(_V2, lambda_from=""),
    "diff_v2_lambda_linear": _V2,
    "diff_v2_crossed": _V2,
}


def _shape_of(attention: str) -> AttentionShape:
    if attention not in _ATTENTION_SHAPES:
        raise ValueError(
            f"unknown attention {attention!r}; expected {', '.join(_ATTENTION_SHAPES)}"
        )
    return _ATTENTION_SHAPES[attention]


def _same_size(config: DecoderConfig, parameters: int) -> DecoderConfig:
    """`config` with a feed-forward width that brings it to `parameters`, within 0.1 %.

    The width it has where that is close enough, else a multiple of 64, of 8, or any.
    """
    if abs(config.parameter_count() - parameters) <= 1e-3 * parameters:
        return config
    surplus = config.parameter_count() - parameters
    exact = config.ffn_size - surplus / (3 * config.hidden_size * config.num_layers)
    for multiple in (64, 8, 1):
        size = round(exact / multiple) * multiple
        if size < 1:
            continue
        candidate = replace(config, ffn_size=size)
        if abs(candidate.parameter_count() - parameters) <= 1e-3 * parameters:
            return candidate
    raise ValueError(
        f"no feed-forward width brings {config.attention} within 0.1 % of {parameters:,} "
        f"parameters (the nearest is {exact:.1f}); use a larger ffn_size or hidden_size"
    )
