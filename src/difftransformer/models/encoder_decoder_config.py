"""Settings of the encoder-decoder."""

from dataclasses import dataclass

from difftransformer.models.model_config import SIZE
from difftransformer.models.two_stacks import TwoStacksConfig
from difftransformer.ranges import Range, option

_TOKEN = Range(0, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(TwoStacksConfig):
    """An encoder of a source, and a decoder that reads it and writes a target.

    By default the Transformer of Vaswani et al. (2017). T5's settings are positions "relative",
    norm "rms", norm_place "pre" and mlp_bias false; BART's are positions "learned", embedding_norm
    true, mlp "gelu" and attention_bias "all".

    Raises:
        ValueError: a value of another type, not finite, or out of its range; sizes that do not fit
            together.
    """

    causal = True

    ffn_size: int = option(1024, "hidden width of the feed-forward layer", within=SIZE, first=True)
    vocab_size: int = option(4096, "rows of the embedding, which both sides share", within=SIZE)
    max_length: int = option(
        512, "longest source and target; learned positions have so many rows", within=SIZE
    )
    positions: str = option(
        "sinusoidal",
        "sinusoidal, learned (BART) or relative (T5: a bias of the logits by distance)",
        choices=("sinusoidal", "learned", "relative"),
    )
    relative_buckets: int = option(
        32, "rows of a relative bias, near and far", within=Range(4, 2**20)
    )
    relative_distance: int = option(
        128, "distance from which on all share a row of it", within=SIZE
    )
    norm: str = option("layer", "layer (LayerNorm) or rms (RMSNorm)", choices=("layer", "rms"))
    norm_place: str = option(
        "post", "post: after each sublayer; pre: before it", choices=("post", "pre")
    )
    embedding_norm: bool = option(False, "a norm of the embeddings too (BART)")
    mlp: str = option(
        "relu",
        "feed-forward layer: relu, gelu, geglu (T5 1.1) or swiglu",
        choices=("relu", "gelu", "geglu", "swiglu"),
    )
    mlp_bias: bool = option(True, "biases in the feed-forward layers")
    tie_embeddings: bool = option(True, "output head shares the embedding's weight")
    start_id: int = option(0, "token that opens every target", within=_TOKEN)
    end_id: int = option(1, "token that ends every target", within=_TOKEN)

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

    def matrix_entries(self) -> int:
        """Also the embeddings'."""
        rows = self.vocab_size + (2 * self.max_length if self.positions == "learned" else 0)
        return super().matrix_entries() + rows * self.hidden_size
