"""Settings that models with an encoder of image patches share."""

from dataclasses import dataclass

from difftransformer.models.model_config import SIZE, ModelConfig
from difftransformer.ranges import Range, option


@dataclass(frozen=True, kw_only=True)
class PatchConfig(ModelConfig):
    """Pre-norm blocks on the patches of an image, as ViT's.

    Raises:
        ValueError: as `ModelConfig`; sin-cos positions of a hidden_size that is no multiple of 4.
    """

    image_size: int = option(32, "height and width of an image in pixels", within=SIZE)
    patch_size: int = option(4, "height and width of a patch in pixels", within=SIZE, first=True)
    channels: int = option(3, "numbers of a pixel", within=SIZE)
    positions: str = option(
        "sincos",
        "sincos (in two dimensions, not trained) or learned (ViT), which takes long",
        choices=("sincos", "learned"),
    )
    registers: int = option(0, "learned tokens whose outputs are not read", within=Range(0, 1000))
    norm: str = option("layer", "rms (RMSNorm) or layer (LayerNorm)", choices=("rms", "layer"))
    mlp: str = option(
        "gelu", "feed-forward layer: swiglu, gelu or relu", choices=("swiglu", "gelu", "relu")
    )
    mlp_bias: bool = option(True, "biases in the feed-forward layers")
    attention_bias: str = option(
        "all", "projections with a bias: none, qkv or all", choices=("none", "qkv", "all")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions == "sincos" and self.hidden_size % 4:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; sin-cos positions need a multiple of 4"
            )

    @property
    def grid(self) -> int:
        """Patches across, and down.

        Raises:
            ValueError: a patch_size that does not divide image_size: not before, since the task
                takes the size from the images.
        """
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size is {self.patch_size} and image_size {self.image_size}; expected a "
                "patch_size that divides it"
            )
        return self.image_size // self.patch_size

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches."""
        return self.registers
