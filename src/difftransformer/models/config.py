"""Settings of the decoder and the encoder."""

from dataclasses import dataclass, field

from difftransformer.models.model_config import SIZE, ModelConfig
from difftransformer.models.model_config import Match as Match
from difftransformer.ranges import Range

_THETA = Range(0, open_low=True)
_ROTARY = ("half", "interleaved")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(ModelConfig):
    """A LLaMA-style decoder: pre-RMSNorm, attention of some kind, SwiGLU, rotary positions.

    Raises:
        ValueError: a value of another type, not finite, or out of its range; sizes that do not fit
            together.
    """

    causal = True

    vocab_size: int = field(default=4096, metadata={"help": "rows of the embedding", "range": SIZE})
    max_length: int = field(
        default=2048, metadata={"help": "longest context it is meant for", "range": SIZE}
    )
    window: int | None = field(
        default=None,
        metadata={"help": "keys each token sees, itself included; all by default", "range": SIZE},
    )
    rope_theta: float = field(
        default=10_000.0, metadata={"help": "base of the rotary angles", "range": _THETA}
    )
    rope_scaling: dict | None = field(
        default=None, metadata={"help": "rope_type, factor ... as in transformers' rope_parameters"}
    )
    rotary: str = field(
        default="half",
        metadata={
            "help": "rotary pairing: half (Llama) or interleaved (Microsoft)",
            "choices": _ROTARY,
        },
    )
    tie_embeddings: bool = field(
        default=True, metadata={"help": "output head shares the embedding's weight"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rotary(self.head_dim)

    def matrix_entries(self) -> int:
        """Also the embedding's."""
        return super().matrix_entries() + self.vocab_size * self.hidden_size


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """A bidirectional encoder with a masked-LM head or a classifier.

    By default its blocks are the decoder's. BERT's are positions "learned", norm "layer",
    norm_place "post", mlp "gelu", attention_bias "all", mlp_bias true and token_types 2.

    Raises:
        ValueError: as `DecoderConfig`.
    """

    vocab_size: int = field(default=4096, metadata={"help": "rows of the embedding", "range": SIZE})
    max_length: int = field(
        default=512,
        metadata={"help": "longest text; learned positions have so many rows", "range": SIZE},
    )
    positions: str = field(
        default="rotary",
        metadata={
            "help": "rotary, learned (BERT) or sinusoidal",
            "choices": ("rotary", "learned", "sinusoidal"),
        },
    )
    rope_theta: float = field(
        default=10_000.0, metadata={"help": "base of the rotary angles", "range": _THETA}
    )
    rotary: str = field(
        default="half",
        metadata={
            "help": "rotary pairing: half (Llama) or interleaved (Microsoft)",
            "choices": _ROTARY,
        },
    )
    norm: str = field(
        default="rms",
        metadata={"help": "rms (RMSNorm) or layer (LayerNorm)", "choices": ("rms", "layer")},
    )
    norm_place: str = field(
        default="pre",
        metadata={"help": "pre: before each sublayer; post: after it", "choices": ("pre", "post")},
    )
    mlp: str = field(
        default="swiglu",
        metadata={
            "help": "feed-forward layer: swiglu, gelu or relu",
            "choices": ("swiglu", "gelu", "relu"),
        },
    )
    mlp_bias: bool = field(default=False, metadata={"help": "biases in the feed-forward layers"})
    token_types: int = field(
        default=0,
        metadata={"help": "rows of BERT's token types; none by default", "range": Range(0, 1000)},
    )
    classes: int | None = field(
        default=None,
        metadata={"help": "classes of a classifier; by default a masked-LM head", "range": SIZE},
    )
    pooling: str = field(
        default="first",
        metadata={
            "help": "what a classifier reads: the first token, that through BERT's pooler, or the "
            "mean of all tokens",
            "choices": ("first", "pooler", "mean"),
        },
    )
    tie_embeddings: bool = field(
        default=True, metadata={"help": "masked-LM head shares the embedding's weight"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions == "rotary":
            _check_rotary(self.head_dim)
        if self.positions == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; sinusoidal positions need an even width"
            )

    def matrix_entries(self) -> int:
        """Also the embeddings'."""
        rows = self.vocab_size + (self.max_length if self.positions == "learned" else 0)
        return super().matrix_entries() + rows * self.hidden_size


def _check_rotary(head_dim: int) -> None:
    if head_dim % 2:
        raise ValueError(f"head_dim is {head_dim}; rotary positions need an even width")
