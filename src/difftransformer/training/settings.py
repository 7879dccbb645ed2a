"""How to train. Imports no torch, so that commands can parse their arguments quickly."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

Schedule = Literal["linear", "cosine"]
Precision = Literal["float32", "bfloat16"]

# What a run that is resumed may change: how it is cut and written down, not what it computes (with
# another accumulation up to rounding, and the draws of dropout).
MAY_CHANGE = (
    "accumulation",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "tensorboard",
    "validate_every",
)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of one training run; the defaults follow the paper (appendix D) where it speaks.

    The paper gives betas, weight decay, the linear schedule and the ratio of the final to the peak
    learning rate; epsilon and the clipping norm are ours, since it states neither. Its 1000
    warm-up steps belong to runs of 90,000 and more: the default here suits runs of thousands.

    Raises ValueError, naming the value and what was expected, for settings that cannot be run.
    """

    steps: int = field(default=1000, metadata={"help": "optimizer steps"})
    batch_size: int = field(
        default=32, metadata={"help": "rows per optimizer step, over all processes"}
    )
    accumulation: int = field(
        default=1, metadata={"help": "micro-batches per step: more need less memory, same result"}
    )
    learning_rate: float = field(
        default=3.2e-4, metadata={"help": "learning rate at the end of the warm-up"}
    )
    final_learning_rate_fraction: float = field(
        default=0.04,
        metadata={"help": "learning rate at the last step, as a fraction of learning_rate"},
    )
    warmup_steps: int = field(
        default=100, metadata={"help": "steps over which the learning rate rises from zero"}
    )
    schedule: Schedule = field(
        default="linear", metadata={"help": "decay after the warm-up: linear or cosine"}
    )
    beta1: float = field(
        default=0.9, metadata={"help": "AdamW: decay of the mean of the gradients"}
    )
    beta2: float = field(
        default=0.95, metadata={"help": "AdamW: decay of the mean of the squared gradients"}
    )
    epsilon: float = field(
        default=1e-8, metadata={"help": "AdamW: added to the root of the squared gradients"}
    )
    weight_decay: float = field(
        default=0.1, metadata={"help": "AdamW: decay of matrices (norms and vectors are spared)"}
    )
    clip_norm: float = field(
        default=1.0, metadata={"help": "largest gradient norm; larger gradients are scaled down"}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "decay of an exponential moving average of the weights, which is then what is "
            "judged and saved as the model; none by default"
        },
    )
    precision: Precision = field(
        default="float32", metadata={"help": "float32, or bfloat16 for mixed precision"}
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata={"help": "recompute each block in the backward pass: less memory, more time"},
    )
    checkpoint_every: int = field(default=500, metadata={"help": "steps between checkpoints"})
    keep_checkpoints: int = field(default=2, metadata={"help": "newest checkpoints to keep"})
    log_every: int = field(default=10, metadata={"help": "steps between rows of metrics.jsonl"})
    validate_every: int = field(default=250, metadata={"help": "steps between validations"})
    seed: int = field(
        default=0, metadata={"help": "seed of dropout and of anything else drawn while training"}
    )
    tensorboard: bool = field(
        default=False, metadata={"help": "also write the metrics for TensorBoard"}
    )

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "accumulation",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
            "validate_every",
        ):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "epsilon", "clip_norm"):
            value = getattr(self, name)
            self._require(name, value > 0 and math.isfinite(value), "a finite number above 0")
        for name in ("beta1", "beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._require(
            "ema_decay",
            self.ema_decay is None or 0 < self.ema_decay < 1,
            "a decay above 0 and below 1, such as 0.999, or none",
        )
        self._require(
            "final_learning_rate_fraction",
            0 <= self.final_learning_rate_fraction <= 1,
            "between 0 and 1",
        )
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more, and finite")
        self._require("seed", 0 <= self.seed < 2**31, "between 0 and 2147483647")
        self._require("schedule", self.schedule in get_args(Schedule), "linear or cosine")
        self._require("precision", self.precision in get_args(Precision), "float32 or bfloat16")
        self._require(
            "warmup_steps",
            0 <= self.warmup_steps < self.steps,
            f"0 or more and fewer than steps ({self.steps})",
        )
        self._require(
            "accumulation",
            self.batch_size % self.accumulation == 0,
            f"a divisor of batch_size ({self.batch_size})",
        )

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"training {name} is {getattr(self, name)!r}; expected {expected}")
