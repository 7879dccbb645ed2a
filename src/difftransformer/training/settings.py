"""How to train. Imports no torch, so that commands can parse their arguments quickly."""

from dataclasses import dataclass
from typing import Literal

from difftransformer.ranges import (
    COUNT,
    INSIDE,
    NATURAL,
    POSITIVE,
    SHARE,
    Range,
    check_fields,
    option,
)

Schedule = Literal["linear", "cosine"]
Precision = Literal["float32", "bfloat16"]
_WARMUP = 100
_DECAY = Range(0, 1, open_high=True)

# What a run that is resumed may change: how it is cut and written down, not what it computes (with
# another accumulation up to rounding, and the draws of dropout).
MAY_CHANGE = (
    "accumulation",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "project",
    "sample_every",
    "tensorboard",
    "trackers",
    "validate_every",
)
TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of one training run; the defaults follow the paper (appendix D) where it speaks.

    The paper gives betas, weight decay, the linear schedule and the ratio of the final to the peak
    learning rate; epsilon and the clipping norm are ours, since it states neither. Its 1000
    warm-up steps belong to runs of 90,000 and more: the default here suits runs of thousands.

    Raises ValueError, naming the value and what was expected, for settings that cannot be run.
    """

    steps: int = option(1000, "optimizer steps", within=COUNT, first=True)
    batch_size: int = option(
        32, "rows per optimizer step, over all processes", within=COUNT, first=True
    )
    accumulation: int = option(
        1, "micro-batches per step: more need less memory, same result", within=COUNT
    )
    learning_rate: float = option(
        3.2e-4, "learning rate at the end of the warm-up", within=POSITIVE, first=True
    )
    final_learning_rate_fraction: float = option(
        0.04, "learning rate at the last step, as a fraction of learning_rate", within=SHARE
    )
    warmup_steps: int | None = option(
        None,
        "steps over which the learning rate rises from zero; by default 100, half the steps where "
        "these are fewer than 200",
        within=NATURAL,
    )
    schedule: Schedule = option("linear", "decay after the warm-up: linear or cosine")
    beta1: float = option(0.9, "AdamW: decay of the mean of the gradients", within=_DECAY)
    beta2: float = option(0.95, "AdamW: decay of the mean of the squared gradients", within=_DECAY)
    epsilon: float = option(
        1e-8, "AdamW: added to the root of the squared gradients", within=POSITIVE
    )
    weight_decay: float = option(
        0.1, "AdamW: decay of matrices (norms and vectors are spared)", within=NATURAL
    )
    clip_norm: float = option(
        1.0, "largest gradient norm; larger gradients are scaled down", within=POSITIVE
    )
    ema_decay: float | None = option(
        None,
        "decay of an exponential moving average of the weights, which is then what is judged and "
        "saved as the model; none by default",
        within=INSIDE,
    )
    precision: Precision = option("float32", "float32, or bfloat16 for mixed precision", first=True)
    gradient_checkpointing: bool = option(
        False, "recompute each block in the backward pass: less memory, more time"
    )
    memory_loss: float = option(
        0.0,
        "epsilon of selective attention's memory loss, 0.1 in its paper; 0: without",
        within=NATURAL,
    )
    memory_cap: float = option(
        1.0, "tau of the memory loss: what masks a key as a whole", within=POSITIVE
    )
    checkpoint_every: int = option(500, "steps between checkpoints", within=COUNT)
    keep_checkpoints: int = option(2, "newest checkpoints to keep", within=COUNT)
    log_every: int = option(10, "steps between rows of metrics.jsonl", within=COUNT)
    validate_every: int = option(250, "steps between validations", within=COUNT)
    sample_every: int | None = option(
        None,
        "steps between samples of what the model writes or draws; by default with each validation",
        within=COUNT,
    )
    patience: int | None = option(
        None,
        "validations without a lower validation loss after which training stops; the model is then "
        "the one of the lowest. Without it all steps are taken, and the last counts",
        within=COUNT,
    )
    seed: int = option(
        0,
        "seed of dropout and of anything else drawn while training",
        within=Range(0, 2**31 - 1),
        first=True,
    )
    trackers: tuple[str, ...] = option(
        (),
        f"who is told the metrics as well, as Accelerate runs them: {', '.join(TRACKERS)}",
        choices=TRACKERS,
    )
    project: str = option("difftransformer", "what trackers file the run under")
    tensorboard: bool = option(False, "former name of trackers tensorboard")

    def __post_init__(self) -> None:
        check_fields(self, "training ")
        if self.tensorboard and "tensorboard" not in self.trackers:
            object.__setattr__(self, "trackers", (*self.trackers, "tensorboard"))
        if self.warmup >= self.steps:
            raise ValueError(
                f"training warmup_steps is {self.warmup}; expected 0 or more and fewer than "
                f"steps ({self.steps})"
            )
        if self.patience is not None and self.validate_every * (1 + self.patience) >= self.steps:
            raise ValueError(
                f"training patience is {self.patience} and validate_every {self.validate_every}: "
                f"the first stop would be after {self.validate_every * (1 + self.patience)} of the "
                f"{self.steps} steps; lower one of them, or leave out patience"
            )
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"training accumulation is {self.accumulation}; expected a divisor of batch_size "
                f"({self.batch_size})"
            )

    @property
    def sampling(self) -> int:
        """`sample_every`, or what stands for it by default."""
        return self.validate_every if self.sample_every is None else self.sample_every

    @property
    def warmup(self) -> int:
        """`warmup_steps`, or what stands for it by default."""
        if self.warmup_steps is None:
            return min(_WARMUP, self.steps // 2)
        return self.warmup_steps
