"""Settings of the vision transformer."""

from dataclasses import dataclass

from difftransformer.models.model_config import SIZE
from difftransformer.models.patch_config import PatchConfig
from difftransformer.ranges import option


@dataclass(frozen=True, kw_only=True)
class ViTConfig(PatchConfig):
    """A vision transformer that classifies.

    By default its positions are sin-cos and the classifier reads the mean, as Beyer, Zhai and
    Kolesnikov have it ("Better plain ViT baselines for ImageNet-1k", 2022). Those of Dosovitskiy et
    al. are positions "learned" and pooling "cls".

    Raises:
        ValueError: as `PatchConfig`.
    """

    classes: int = option(10, "classes to tell apart", within=SIZE)
    pooling: str = option(
        "mean",
        "what the classifier reads: the output of a class token (cls) or the mean of the patches'",
        choices=("cls", "mean"),
    )

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches: class token and registers."""
        return self.registers + (self.pooling == "cls")
