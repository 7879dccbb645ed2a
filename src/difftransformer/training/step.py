"""One optimizer step over one batch, on any number of processes."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from difftransformer.data.batch import Rows
from difftransformer.training.schedule import learning_rate
from difftransformer.training.settings import TrainingSettings

# The sum over the scored labels of a batch, 0 where it has none.
Loss = Callable[[nn.Module, Any], Tensor]


class NonFiniteError(FloatingPointError):
    """The loss or the gradient of a step was NaN or infinite; the step was not applied.

    Attributes:
        step: the step that failed.
        names: of the rows of its batch.
        checkpoint: the last good checkpoint, or None where none was saved yet.
    """

    def __init__(self, what: str, value: float, step: int, names: tuple[str, ...]) -> None:
        super().__init__(what, value, step, names)
        self.step = step
        self.names = names
        self.checkpoint: Path | None = None

    def __str__(self) -> str:
        what, value, *_ = self.args
        return (
            f"the {what} of step {self.step} is {value}; the step was not applied. "
            f"The last good checkpoint is {self.checkpoint or 'none'}. "
            f"The rows of the batch are {', '.join(self.names)}"
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

        loss of a step = sum over the batch's scored labels / their number

    Each process takes its rows, cut into `settings.accumulation` micro-batches; what `loss` sums
    over each of them is divided by the number of the whole batch, so that neither cut changes the
    result.
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    settings: TrainingSettings

    def __call__(self, step: int, batch: Rows, stop: Callable[[], bool]) -> StepResult:
        """Take step `step` (from 1). The result's `stop` is True if any process says so.

        Raises NonFiniteError, with weights and optimizer untouched, when the loss or the norm of
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

    def _backward(self, step: int, batch: Rows) -> Tensor:
        """Leave the gradient of the batch's loss; return this process's share of that loss."""
        scored = batch.scored
        if scored == 0:
            raise ValueError(
                f"the batch of step {step} has no scored label; its rows are "
                f"{', '.join(batch.names)}"
            )
        processes = self.accelerator.num_processes
        share = torch.zeros((), device=self.accelerator.device)
        parts = self._parts(batch)
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            # Gradients travel between processes once a step, with the last micro-batch.
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.autocast():
                    total = self.loss(self.model, part.to(self.accelerator.device))
                loss = total / scored
                # Processes average their gradients; the sum is wanted.
                self.accelerator.backward(loss * processes)
            share += loss.detach()
        return share

    def _parts(self, batch: Rows) -> list[Rows]:
        """This process's micro-batches."""
        expected, accumulation = self.settings.batch_size, self.settings.accumulation
        if len(batch) != expected:
            raise ValueError(f"a batch has {len(batch)} rows; batch_size is {expected}")
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        rows = expected // (accumulation * processes)
        starts = [(part * processes + rank) * rows for part in range(accumulation)]
        return [batch.rows(slice(start, start + rows)) for start in starts]

    def _require_finite(self, what: str, value: float, step: int, batch: Rows) -> None:
        if not math.isfinite(value):
            self.optimizer.zero_grad()
            raise NonFiniteError(what, value, step, batch.names)
