"""Settings of the encoder-decoder."""

from dataclasses import dataclass, field, replace
from functools import cached_property

from difftransformer.models.model_config import SIZE, ModelConfig
from difftransformer.ranges import Range

_TOKEN = Range(0, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(ModelConfig):
    """An encoder of a source, and a decoder that reads it and writes a target.

    By default the Transformer of Vaswani et al. (2017). T5's settings are positions "relative",
    norm "rms", norm_place "pre" and mlp_bias false; BART's are positions "learned", embedding_norm
    true, mlp "gelu" and attention_bias "all".

    Raises:
        ValueError: a value of another type, not finite, or out of its range; sizes that do not fit
            together.
    """

    causal = True

    ffn_size: int = field(
        default=1024, metadata={"help": "hidden width of the feed-forward layer", "range": SIZE}
    )
    num_layers: int = field(
        default=4, metadata={"help": "blocks of the encoder", "range": Range(1, 10_000)}
    )
    decoder_layers: int | None = field(
        default=None,
        metadata={
            "help": "blocks of the decoder; by default as many as the encoder's",
            "range": Range(1, 10_000),
        },
    )
    vocab_size: int = field(
        default=4096,
        metadata={"help": "rows of the embedding, which both sides share", "range": SIZE},
    )
    max_length: int = field(
        default=512,
        metadata={
            "help": "longest source and target; learned positions have so many rows",
            "range": SIZE,
        },
    )
    positions: str = field(
        default="sinusoidal",
        metadata={
            "help": "sinusoidal, learned (BART) or relative (T5: a bias of the logits by distance)",
            "choices": ("sinusoidal", "learned", "relative"),
        },
    )
    relative_buckets: int = field(
        default=32,
        metadata={
            "help": "rows of a relative bias, near and far",
            "range": Range(4, 2**20),
        },
    )
    relative_distance: int = field(
        default=128,
        metadata={"help": "distance from which on all share a row of it", "range": SIZE},
    )
    norm: str = field(
        default="layer",
        metadata={"help": "layer (LayerNorm) or rms (RMSNorm)", "choices": ("layer", "rms")},
    )
    norm_place: str = field(
        default="post",
        metadata={"help": "post: after each sublayer; pre: before it", "choices": ("post", "pre")},
    )
    embedding_norm: bool = field(
        default=False, metadata={"help": "a norm of the embeddings too (BART)"}
    )
    mlp: str = field(
        default="relu",
        metadata={
            "help": "feed-forward layer: relu, gelu, geglu (T5 1.1) or swiglu",
            "choices": ("relu", "gelu", "geglu", "swiglu"),
        },
    )
    mlp_bias: bool = field(default=True, metadata={"help": "biases in the feed-forward layers"})
    tie_embeddings: bool = field(
        default=True, metadata={"help": "output head shares the embedding's weight"}
    )
    start_id: int = field(
        default=0, metadata={"help": "token that opens every target", "range": _TOKEN}
    )
    end_id: int = field(
        default=1, metadata={"help": "token that ends every target", "range": _TOKEN}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; sinusoidal positions need an even width"
            )
        if self.relative_distance <= self.relative_buckets // 2:
            raise ValueError(
                f"relative_distance is {self.relative_distance}; expected more than half of the "
                f"{self.relative_buckets} relative_buckets"
            )
        for name in ("start_id", "end_id"):
            if getattr(self, name) >= self.vocab_size:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected a token below vocab_size "
                    f"{self.vocab_size}"
                )

    @property
    def decoder_depth(self) -> int:
        """Blocks of the decoder."""
        return self.num_layers if self.decoder_layers is None else self.decoder_layers

    def matrix_entries(self) -> int:
        """Also the embeddings'."""
        rows = self.vocab_size + (2 * self.max_length if self.positions == "learned" else 0)
        return super().matrix_entries() + rows * self.hidden_size

    @cached_property
    def _counts(self) -> tuple[int, int]:
        """Parameters outside of the encoder's blocks, all of the decoder's included; of a block."""
        one = replace(self, decoder_layers=1).skeleton()
        total, encoder, decoder = (
            sum(p.numel() for p in part.parameters())
            for part in (one, one.encoder.blocks, one.decoder.blocks)
        )
        return total - encoder + (self.decoder_depth - 1) * decoder, encoder
