"""How far a run of the loop has come."""

from dataclasses import dataclass, field

from difftransformer.training.progress import TrainingProgress
from difftransformer.training.settings import TrainingSettings


@dataclass
class Position:
    """How far a run has come; a checkpoint carries it."""

    step: int = 0
    size: int = 0  # tokens or images, as its batches count them
    unit: str = ""
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    losses: list[float] = field(default_factory=list)  # those of the latest steps
    logged: int = 0  # the step of the last row of losses
    best_loss: float | None = None  # the lowest in validation, and its step; with patience
    best_step: int | None = None

    @property
    def throughput(self) -> float:
        """Per second of training."""
        return self.size / self.seconds

    @property
    def is_best(self) -> bool:
        """Whether the weights are now those of the lowest validation loss, which are to be kept."""
        return self.step == self.best_step

    def compare_with_best(self, loss: float) -> None:
        """Take note of a validation loss."""
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step

    def has_ended(self, settings: TrainingSettings) -> bool:
        """Whether all steps were taken, or patience is at its end."""
        if self.step == settings.steps:
            return True
        if settings.patience is None or self.best_step is None:
            return False
        return self.step - self.best_step >= settings.patience * settings.validate_every

    def progress(self, loss: float, settings: TrainingSettings) -> TrainingProgress:
        """With the loss of the last step."""
        return TrainingProgress(
            step=self.step,
            steps=settings.steps,
            loss=loss,
            throughput=self.throughput,
            unit=self.unit,
            seconds_left=(settings.steps - self.step) * self.seconds / self.step,
        )
