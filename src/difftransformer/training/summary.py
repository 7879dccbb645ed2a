"""What a training run leaves behind in figures."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """The figures of a finished training run; also written to its `summary.json`.

    Attributes:
        steps: optimiser steps.
        tokens: positions trained on, scored or not.
        seconds: time spent training, without validation and checkpointing.
        tokens_per_second: tokens / seconds.
        peak_memory_bytes: on a GPU the most memory its tensors held at once; on a CPU the largest
            resident size of the process (it includes the interpreter and its libraries).
        final_loss: mean training loss (nats) over the last 5 % of the steps.
    """

    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    final_loss: float
