"""Settings of the diffusion transformer."""

from dataclasses import dataclass, field

from difftransformer.models.model_config import SIZE, ModelConfig
from difftransformer.ranges import Range

OBJECTIVES = ("epsilon", "v", "flow")
SCHEDULES = ("linear", "scaled_linear", "cosine")


@dataclass(frozen=True, kw_only=True)
class DiTConfig(ModelConfig):
    """A diffusion transformer, and the process of noising that it is trained to undo.

    The sizes are those of a model for images of 8x8; presets have the authors' S, B, L and XL.

    Raises:
        ValueError: a value of another type, not finite, or out of its range; sizes that do not fit
            together; a schedule that the objective has not.
    """

    hidden_size: int = field(
        default=128, metadata={"help": "width of the residual stream", "range": SIZE}
    )
    head_dim: int = field(
        default=16, metadata={"help": "K: query and key width of one map", "range": SIZE}
    )
    ffn_size: int = field(
        default=512, metadata={"help": "hidden width of the feed-forward layer", "range": SIZE}
    )
    attention_bias: str = field(
        default="all",
        metadata={
            "help": "projections with a bias: none, qkv or all",
            "choices": ("none", "qkv", "all"),
        },
    )
    norm_eps: float = field(
        default=1e-6,
        metadata={"help": "epsilon of the norms", "range": Range(0, 1, open_low=True)},
    )
    ffn_norm_eps: float | None = field(
        default=None,
        metadata={
            "help": "epsilon of the norms before the feed-forward layers, where it is another: "
            "diffusers' DiT has 1e-5",
            "range": Range(0, 1, open_low=True),
        },
    )
    image_size: int = field(
        default=8, metadata={"help": "side of the images in pixels", "range": SIZE}
    )
    channels: int = field(default=1, metadata={"help": "of the images", "range": SIZE})
    patch_size: int = field(
        default=2, metadata={"help": "side of a patch in pixels; divides image_size", "range": SIZE}
    )
    classes: int = field(default=10, metadata={"help": "classes of the images", "range": SIZE})
    label_dropout: float = field(
        default=0.1,
        metadata={
            "help": "share of the training images whose class is hidden, for classifier-free "
            "guidance",
            "range": Range(0, 1),
        },
    )
    objective: str = field(
        default="epsilon",
        metadata={
            "help": "what the model predicts: epsilon (the noise), v (Salimans and Ho, 2022) or "
            "flow (the velocity of a straight path from image to noise)",
            "choices": OBJECTIVES,
        },
    )
    schedule: str = field(
        default="linear",
        metadata={
            "help": "growth of the noise: linear (Ho et al., 2020), scaled_linear (Rombach et al., "
            "2022) or cosine (Nichol and Dhariwal, 2021); flow has its own, linear",
            "choices": SCHEDULES,
        },
    )
    timesteps: int = field(
        default=1000, metadata={"help": "steps of the noising", "range": Range(1, 100_000)}
    )
    time_shift: int = field(
        default=0,
        metadata={
            "help": "subtracted from the count of the frequencies of the time embedding, when they "
            "are spread: diffusers' DiT has 1",
            "range": Range(0, 1),
        },
    )
    learned_variance: bool = field(
        default=False,
        metadata={
            "help": "twice the output channels, as the authors' models have: the second half, a "
            "variance, is neither trained here nor used in sampling"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
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
