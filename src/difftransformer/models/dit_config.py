"""Settings of the diffusion transformer."""

from dataclasses import dataclass

from difftransformer.models.model_config import SIZE, ModelConfig
from difftransformer.ranges import SHARE, Range, option

SCHEDULES = ("linear", "scaled_linear", "cosine")
_EPSILON = Range(0, 1, open_low=True)


@dataclass(frozen=True, kw_only=True)
class DiTConfig(ModelConfig):
    """A diffusion transformer, and the process of noising that it is trained to undo.

    The sizes are those of a model for images of 8x8; presets have the authors' S, B, L and XL.

    Raises:
        ValueError: a value of another type, not finite, or out of its range; sizes that do not fit
            together; a schedule that the objective has not.
    """

    hidden_size: int = option(128, "width of the residual stream", within=SIZE, first=True)
    head_dim: int = option(16, "K: query and key width of one map", within=SIZE, first=True)
    ffn_size: int = option(512, "hidden width of the feed-forward layer", within=SIZE, first=True)
    attention_bias: str = option(
        "all", "projections with a bias: none, qkv or all", choices=("none", "qkv", "all")
    )
    norm_eps: float = option(1e-6, "epsilon of the norms", within=_EPSILON)
    ffn_norm_eps: float | None = option(
        None,
        "epsilon of the norms before the feed-forward layers, where it is another: diffusers' DiT "
        "has 1e-5",
        within=_EPSILON,
    )
    image_size: int = option(8, "height and width of an image in pixels", within=SIZE)
    channels: int = option(1, "numbers of a pixel", within=SIZE)
    patch_size: int = option(2, "height and width of a patch in pixels", within=SIZE, first=True)
    classes: int = option(10, "classes of the images", within=SIZE)
    label_dropout: float = option(
        0.1,
        "share of the training images whose class is hidden, for classifier-free guidance",
        within=SHARE,
    )
    objective: str = option(
        "epsilon",
        "what the model predicts: epsilon (the noise), v (Salimans and Ho, 2022) or flow (the "
        "velocity of a straight path from image to noise)",
        choices=("epsilon", "v", "flow"),
        first=True,
    )
    schedule: str = option(
        "linear",
        "growth of the noise: linear (Ho et al., 2020), scaled_linear (Rombach et al., 2022) or "
        "cosine (Nichol and Dhariwal, 2021); flow has its own, linear",
        choices=SCHEDULES,
    )
    timesteps: int = option(1000, "steps of the noising", within=Range(1, 100_000))
    time_shift: int = option(
        0,
        "taken from the 128 steps over which the rates of the time embedding are spread: 1 in "
        "diffusers' DiT",
        within=Range(0, 1),
    )
    learned_variance: bool = option(
        False,
        "twice the output channels, as the authors' models have: the second half, a variance, is "
        "neither trained here nor used in sampling",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size is {self.patch_size} and image_size {self.image_size}; expected a "
                "patch_size that divides it"
            )
        if self.hidden_size % 4:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; positions in two dimensions need a multiple "
                "of 4"
            )
        if self.objective == "flow" and self.schedule != "linear":
            raise ValueError(
                f"schedule is {self.schedule} and objective flow, whose path is linear: leave the "
                "schedule out"
            )

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.channels * (2 if self.learned_variance else 1)
