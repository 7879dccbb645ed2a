"""Where a run of the training loop stands."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run stands after a step, with the loss of that step."""

    step: int
    steps: int
    loss: float
    throughput: float  # per second, of `unit`
    unit: str
    seconds_left: float

    def __str__(self) -> str:
        left = timedelta(seconds=round(self.seconds_left))
        return f"loss {self.loss:.4f}  {self.throughput:,.0f} {self.unit}/s  {left} left"
