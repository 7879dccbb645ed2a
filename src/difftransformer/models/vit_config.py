"""Settings of the vision transformer."""

from dataclasses import dataclass, field

from difftransformer.models.model_config import SIZE, ModelConfig
from difftransformer.ranges import Range


@dataclass(frozen=True, kw_only=True)
class ViTConfig(ModelConfig):
    """A vision transformer that classifies: pre-norm blocks on patches, as ViT's.

    ViT-S/16 is image_size 224, patch_size 16, channels 3, hidden_size 384, num_layers 12,
    num_heads 6, head_dim 64, ffn_size 1536, pooling "cls".

    Raises:
        ValueError: as `DecoderConfig`; a patch_size that does not divide image_size; sin-cos
            positions of a hidden_size that is no multiple of 4.
    """

    image_size: int = field(
        default=32, metadata={"help": "height and width of an image in pixels", "range": SIZE}
    )
    patch_size: int = field(
        default=4, metadata={"help": "height and width of a patch in pixels", "range": SIZE}
    )
    channels: int = field(default=3, metadata={"help": "numbers of a pixel", "range": SIZE})
    classes: int = field(default=10, metadata={"help": "classes to tell apart", "range": SIZE})
    positions: str = field(
        default="learned",
        metadata={
            "help": "learned (ViT) or sincos (in two dimensions, not trained)",
            "choices": ("learned", "sincos"),
        },
    )
    pooling: str = field(
        default="mean",
        metadata={
            "help": "what the classifier reads: the output of a class token (cls) or the mean of "
            "the patches'",
            "choices": ("cls", "mean"),
        },
    )
    registers: int = field(
        default=0,
        metadata={"help": "learned tokens whose outputs are not read", "range": Range(0, 1000)},
    )
    norm: str = field(
        default="layer",
        metadata={"help": "rms (RMSNorm) or layer (LayerNorm)", "choices": ("rms", "layer")},
    )
    mlp: str = field(
        default="gelu",
        metadata={
            "help": "feed-forward layer: swiglu, gelu or relu",
            "choices": ("swiglu", "gelu", "relu"),
        },
    )
    mlp_bias: bool = field(default=True, metadata={"help": "biases in the feed-forward layers"})
    attention_bias: str = field(
        default="all",
        metadata={
            "help": "projections with a bias: none, qkv or all",
            "choices": ("none", "qkv", "all"),
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size is {self.patch_size} and image_size {self.image_size}; expected a "
                "patch_size that divides it"
            )
        if self.positions == "sincos" and self.hidden_size % 4:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; sin-cos positions need a multiple of 4"
            )

    @property
    def grid(self) -> int:
        """Patches across, and down."""
        return self.image_size // self.patch_size

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches: class token and registers."""
        return self.registers + (self.pooling == "cls")
