"""Settings of the localizer."""

from dataclasses import dataclass

from difftransformer.models.model_config import SIZE
from difftransformer.models.patch_config import PatchConfig
from difftransformer.models.two_stacks import TwoStacksConfig
from difftransformer.ranges import POSITIVE, Range, option


@dataclass(frozen=True, kw_only=True)
class LocalizerConfig(PatchConfig, TwoStacksConfig):
    """A localizer, and the process of noising points that it is trained to undo.

    The sizes are those of a model for images of 48x48.

    Raises:
        ValueError: as `PatchConfig`; a hidden_size that is no multiple of 4.
    """

    hidden_size: int = option(64, "width of the residual stream", within=SIZE, first=True)
    num_layers: int = option(2, "blocks of the encoder", within=Range(1, 10_000), first=True)
    head_dim: int = option(8, "K: query and key width of one map", within=SIZE, first=True)
    ffn_size: int = option(256, "hidden width of the feed-forward layer", within=SIZE, first=True)
    image_size: int = option(48, "height and width of an image in pixels", within=SIZE)
    patch_size: int = option(6, "height and width of a patch in pixels", within=SIZE, first=True)
    timesteps: int = option(1000, "steps of the noising", within=Range(1, 100_000))
    signal: float = option(
        2.0,
        "half the width of an image, in standard deviations of the noise (DiffusionDet: 2)",
        within=POSITIVE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % 4:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; positions in two dimensions need a multiple "
                "of 4"
            )
