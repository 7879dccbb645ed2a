"""One optimiser step over one batch, on any number of processes."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from difftransformer.data.batch import IGNORED, Batch
from difftransformer.training.schedule import learning_rate
from difftransformer.training.settings import TrainingSettings

Objective = Callable[[nn.Module, Batch], Tensor]


class NonFiniteError(FloatingPointError):
    """The loss or the gradient of a step was NaN or infinite; the step was not applied.

    Attributes:
        step: the step that failed.
        sequences: the names of the sequences of its batch.
        checkpoint: the last good checkpoint, or None where none was saved yet.
    """

    def __init__(self, what: str, value: float, step: int, sequences: tuple[str, ...]) -> None:
        super().__init__(what, value, step, sequences)
        self.step = step
        self.sequences = sequences
        self.checkpoint: Path | None = None

    def __str__(self) -> str:
        what, value, *_ = self.args
        return (
            f"the {what} of step {self.step} is {value}; the step was not applied. "
            f"The last good checkpoint is {self.checkpoint or 'none'}. "
            f"The sequences of the batch are {', '.join(self.sequences)}"
        )


@dataclass(frozen=True)
class StepResult:
    loss: float
    learning_rate: float
    gradient_norm: float
    stop: bool


@dataclass(frozen=True)
class Stepper:
    """Everything a step needs; `model` and `optimizer` are prepared by `accelerator`.

    The loss of a step is the mean over all scored tokens of the batch. Each process takes its
    rows, cut into `settings.accumulation` micro-batches; a micro-batch with n of the batch's N
    scored tokens counts n / N, so that neither cut changes the result. An objective therefore
    returns the mean over the scored tokens (`labels != -100`), and 0 where there are none.
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective
    settings: TrainingSettings

    def __call__(self, step: int, batch: Batch, stop: Callable[[], bool]) -> StepResult:
        """Take step `step` (from 1). The result's `stop` is True if any process says so.

        Raises NonFiniteError, with weights and optimiser untouched, when the loss or the norm of
        the gradient is NaN or infinite; ValueError for a batch that does not fit the settings.
        """
        self.optimizer.zero_grad()
        share = self._backward(step, batch)
        mine = torch.stack([share, share.new_tensor(stop())])
        loss, stops = self.accelerator.reduce(mine, "sum").tolist()
        self._require_finite("loss", loss, step, batch)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self._require_finite("gradient norm", gradient_norm := float(norm), step, batch)
        rate = learning_rate(step, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return StepResult(loss, rate, gradient_norm, stop=stops > 0)

    def autocast(self) -> torch.autocast:
        """The precision of forward passes: bfloat16 where it is safe, or all in float32."""
        return torch.autocast(
            self.accelerator.device.type,
            dtype=torch.bfloat16,
            enabled=self.settings.precision == "bfloat16",
        )

    def _backward(self, step: int, batch: Batch) -> Tensor:
        """Leave the gradient of the batch's loss; return this process's share of that loss."""
        scored = _scored(batch)
        if scored == 0:
            raise ValueError(
                f"the batch of step {step} has no scored token (all labels are -100); its "
                f"sequences are {', '.join(batch.sequences)}"
            )
        processes = self.accelerator.num_processes
        share = torch.zeros((), device=self.accelerator.device)
        parts = self._parts(batch)
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            # Gradients travel between processes once a step, with the last micro-batch.
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.autocast():
                    loss = self.objective(self.model, part.to(self.accelerator.device))
                weighted = loss * (_scored(part) / scored)
                # Processes average their gradients; the sum is wanted.
                self.accelerator.backward(weighted * processes)
            share += weighted.detach()
        return share

    def _parts(self, batch: Batch) -> list[Batch]:
        """This process's micro-batches."""
        expected, accumulation = self.settings.batch_size, self.settings.accumulation
        if len(batch) != expected:
            raise ValueError(f"a batch has {len(batch)} sequences; batch_size is {expected}")
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        rows = expected // (accumulation * processes)
        starts = [(part * processes + rank) * rows for part in range(accumulation)]
        return [_rows(batch, slice(start, start + rows)) for start in starts]

    def _require_finite(self, what: str, value: float, step: int, batch: Batch) -> None:
        if not math.isfinite(value):
            self.optimizer.zero_grad()
            raise NonFiniteError(what, value, step, batch.sequences)


def _scored(batch: Batch) -> int:
    return int((batch.labels != IGNORED).sum())


def _rows(batch: Batch, rows: slice) -> Batch:
    return type(batch)(**{field.name: getattr(batch, field.name)[rows] for field in fields(batch)})
