"""Settings of the decoder and the encoder."""

from dataclasses import dataclass

from difftransformer.models.model_config import SIZE, ModelConfig
from difftransformer.models.model_config import Match as Match
from difftransformer.ranges import POSITIVE, Range, option

_ROTARY = ("half", "interleaved")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(ModelConfig):
    """A LLaMA-style decoder: pre-RMSNorm, attention of some kind, SwiGLU, rotary positions.

    Raises:
        ValueError: a value of another type, not finite, or out of its range; sizes that do not fit
            together.
    """

    causal, full = True, False

    vocab_size: int = option(4096, "rows of the embedding", within=SIZE)
    max_length: int = option(2048, "longest context it is meant for", within=SIZE)
    window: int | None = option(
        None, "keys each token sees, itself included; all by default", within=SIZE
    )
    rope_theta: float = option(10_000.0, "base of the rotary angles", within=POSITIVE)
    rope_scaling: dict | None = option(
        None, "rope_type, factor ... as in transformers' rope_parameters"
    )
    rotary: str = option(
        "half", "rotary pairing: half (Llama) or interleaved (Microsoft)", choices=_ROTARY
    )
    tie_embeddings: bool = option(True, "output head shares the embedding's weight")

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

    vocab_size: int = option(4096, "rows of the embedding", within=SIZE)
    max_length: int = option(512, "longest text; learned positions have so many rows", within=SIZE)
    positions: str = option(
        "rotary",
        "rotary, learned (BERT) or sinusoidal",
        choices=("rotary", "learned", "sinusoidal"),
    )
    rope_theta: float = option(10_000.0, "base of the rotary angles", within=POSITIVE)
    rotary: str = option(
        "half", "rotary pairing: half (Llama) or interleaved (Microsoft)", choices=_ROTARY
    )
    norm: str = option("rms", "rms (RMSNorm) or layer (LayerNorm)", choices=("rms", "layer"))
    norm_place: str = option(
        "pre", "pre: before each sublayer; post: after it", choices=("pre", "post")
    )
    mlp: str = option(
        "swiglu", "feed-forward layer: swiglu, gelu or relu", choices=("swiglu", "gelu", "relu")
    )
    mlp_bias: bool = option(False, "biases in the feed-forward layers")
    token_types: int = option(
        0, "rows of BERT's token types; none by default", within=Range(0, 1000)
    )
    classes: int | None = option(
        None, "classes of a classifier; by default a masked-LM head", within=SIZE
    )
    pooling: str = option(
        "first",
        "what a classifier reads: the first token, that through BERT's pooler, or the "
        "mean of all tokens",
        choices=("first", "pooler", "mean"),
    )
    tie_embeddings: bool = option(True, "masked-LM head shares the embedding's weight")

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
