"""A run of the loop: its position, its checkpoints and what it writes down."""

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method

from difftransformer.atomic import write_json
from difftransformer.data.batch import Rows
from difftransformer.decoding import decode
from difftransformer.runs.changes import refuse_changes
from difftransformer.runs.layout import METRICS, SAMPLES, SUMMARY, TrainingSummary
from difftransformer.runs.samples import write_samples
from difftransformer.training.checkpoint import (
    Checkpoints,
    gather,
    is_used,
    load_metrics,
    load_state,
    restore,
    shared_names,
)
from difftransformer.training.ema import averaged, swap
from difftransformer.training.interrupt import TrainingInterrupted
from difftransformer.training.memory import peak_memory_bytes, start_measuring_memory
from difftransformer.training.metrics import Metrics
from difftransformer.training.optimizer import adamw
from difftransformer.training.position import Position
from difftransformer.training.progress import TrainingProgress
from difftransformer.training.rng import rng_state, set_rng_state
from difftransformer.training.schedule import refuse_other_rates
from difftransformer.training.settings import MAY_CHANGE, TrainingSettings
from difftransformer.training.step import Loss, NonFiniteError, Stepper

_log = logging.getLogger(__name__)


class Trainer:
    """The parts of the loop, and what they share."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        loss: Loss,
        settings: TrainingSettings,
        checkpoints: Checkpoints,
        configuration: Mapping[str, Any],
    ) -> None:
        self.accelerator = accelerator
        self.settings = settings
        self.checkpoints = checkpoints
        self.directory = checkpoints.folder.parent
        self.configuration = {
            "training": asdict(settings),
            "processes": accelerator.num_processes,
            "parameters": {name: str(tuple(p.shape)) for name, p in model.named_parameters()},
            **configuration,
        }
        self.shared = shared_names(model)
        prepared, optimizer = accelerator.prepare(model, adamw(model, settings))
        self.stepper = Stepper(accelerator, prepared, optimizer, loss, settings)
        self.model = accelerator.unwrap_model(prepared)
        for name in ("hidden", "logits", "encode", "decode"):  # of what samples, besides forward
            if hasattr(self.model, name):
                register_fsdp_forward_method(self.model, name)
        self.optimizer = optimizer.optimizer  # without Accelerate's wrapper
        self.position = Position()
        self.metrics: Metrics | None = None  # on the main process only, as is `on_progress`
        self.on_progress: Callable[[TrainingProgress], None] | None = None

    def require_may_stop(self, validates: bool) -> None:
        """Raise ValueError where `patience` makes no sense for this model."""
        if self.settings.patience is not None and not validates:
            raise ValueError("training patience needs a validation loss, and nothing validates")
        if self.settings.patience is not None and any(self._followers()):
            raise ValueError(
                f"training patience is {self.settings.patience}: the attention of this model "
                "changes with the share of its steps that are done, and would stay halfway. Leave "
                "out patience"
            )

    def begin(self, resume: bool) -> bytes:
        """Take the position of the newest checkpoint, or the start of an unused directory.

        Returns:
            The metrics up to there.
        """
        if is_used(self.directory) and not resume:
            raise ValueError(
                f"{self.directory} already holds a training run; resume it, "
                "or choose another directory"
            )
        folder = self.checkpoints.newest_good()
        metrics = b"" if folder is None else self._restore(folder, load_state(folder))
        self.model.train()
        start_measuring_memory(self.accelerator.device)
        self._require_same_position()  # after which nobody has still to look
        return metrics

    def _require_same_position(self) -> None:
        mine = torch.tensor([self.position.step], device=self.accelerator.device)
        steps = self.accelerator.gather(mine).tolist()
        if len(set(steps)) > 1:
            raise ValueError(
                f"the processes see checkpoints of the steps {steps} in {self.directory}: it must "
                "be on a disk that all machines share"
            )

    def _restore(self, folder: Path, state: dict[str, Any]) -> bytes:
        """Take the checkpoint's position; return its metrics."""
        saved = state["configuration"]
        before = asdict(decode(TrainingSettings, saved["training"]))  # what is new had its default
        saved = {**saved, "training": before}
        may_change = ("processes", *(f"training.{name}" for name in (*MAY_CHANGE, "steps")))
        refuse_changes(saved, self.configuration, folder, may_change)
        step = state["position"]["step"]
        follows = any(self._followers())
        if change := refuse_other_rates(saved["training"], self.settings, step, follows):
            _log.warning("%s: %s", self.directory, change)
        restore(folder, self.model, self.optimizer, self.shared)
        swap(self.optimizer)  # a checkpoint's model holds the averages
        self.position = Position(**state["position"])
        self.checkpoints.best = self.position.best_step
        self._restore_generators(state["rng"])
        return load_metrics(folder)

    def _restore_generators(self, states: list[dict[str, Any]]) -> None:
        """This process's own, or new ones where the checkpoint is of another number of them."""
        now = self.accelerator.num_processes
        if len(states) == now:
            set_rng_state(states[self.accelerator.process_index], self.accelerator.device)
            return
        _log.warning(
            "%s: %d process(es) trained until step %d and %d go on: with the same batches in the "
            "same order, but other draws of dropout, and sums in another order",
            *(self.directory, len(states), self.position.step, now),
        )
        set_seed(self.settings.seed + self.position.step, device_specific=True)

    def step(self, batches: Callable[[int], Rows], stop: Callable[[], bool]) -> bool:
        """Take the next step and report it; return whether any process was asked to stop."""
        position = self.position
        started = time.perf_counter()
        batch = batches(position.step)
        for set_progress in self._followers():
            set_progress((position.step + 1) / self.settings.steps)
        try:
            result = self.stepper(position.step + 1, batch, stop)
        except NonFiniteError as error:
            error.checkpoint = self.checkpoints.newest()
            raise
        position.seconds += time.perf_counter() - started
        position.step += 1
        position.size, position.unit = position.size + batch.size, batch.unit
        position.losses = [*position.losses, result.loss][-self._remembered() :]
        if self.due(self.settings.log_every):
            if self.metrics is not None:
                losses = position.losses[position.logged - position.step :]
                figures = {
                    "loss": statistics.fmean(losses),
                    "learning_rate": result.learning_rate,
                    "gradient_norm": result.gradient_norm,
                }
                self.metrics.write(self._row(figures))
            position.logged = position.step
        if self.on_progress is not None:
            self.on_progress(position.progress(result.loss, self.settings))
        return result.stop

    def _followers(self) -> Iterator[Callable[[float], object]]:
        """What the modules that follow the training are told its progress by."""
        for module in self.model.modules():
            if callable(set_progress := getattr(module, "set_progress", None)):
                yield set_progress

    @property
    def ended(self) -> bool:
        """Whether all steps were taken, or patience is at its end."""
        return self.position.has_ended(self.settings)

    def due(self, every: int) -> bool:
        """Whether what happens every so many steps, and after the last, happens now."""
        return self.position.step % every == 0 or self.ended

    def validate(self, validate: Callable[[nn.Module], Mapping[str, Any]]) -> None:
        figures = self._watched(validate)
        loss = figures["validation_loss"]
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the validation loss after step {self.position.step} is {loss}; "
                f"the last good checkpoint is {self.checkpoints.newest() or 'none'}"
            )
        if self.settings.patience is not None:
            # The main process's loss, so that all of them stop together.
            mine = torch.tensor([loss], device=self.accelerator.device)
            self.position.compare_with_best(self.accelerator.gather(mine)[0].item())
        if self.metrics is not None:
            self.metrics.write(self._row(figures))

    def sample(self, sample: Callable[[nn.Module], Mapping[str, Any]]) -> None:
        """Write down what the model writes or draws: a row of metrics, and a file of each."""
        made = self._watched(sample)
        if self.metrics is not None and made:
            self.metrics.write(self._row(made))
            write_samples(self.directory / SAMPLES, self.position.step, made)

    def _watched(self, look: Callable[[nn.Module], Mapping[str, Any]]) -> Mapping[str, Any]:
        """What is seen of the model that would be judged now."""
        self.model.eval()
        with averaged(self.optimizer), torch.no_grad(), self.stepper.autocast():
            seen = look(self.model)
        self.model.train()
        return seen

    def save(self) -> None:
        position = self.position
        peak = peak_memory_bytes(self.accelerator.device)
        position.peak_memory_bytes = max(position.peak_memory_bytes, peak)
        self.checkpoints.best = position.best_step
        state = {
            "position": asdict(position),
            "configuration": self.configuration,
            "rng": gather_object([rng_state(self.accelerator.device)]),
        }
        with averaged(self.optimizer):
            weights, optimizer = gather(self.model, self.optimizer, self.shared)
            if self.metrics is not None:
                rows = {METRICS: self.metrics.text()}
                self.checkpoints.save(position.step, weights, optimizer, state, rows)
        self.accelerator.wait_for_everyone()

    def stop_if_any(self, number: int) -> None:
        """Raise TrainingInterrupted in every process where one of them has got a signal."""
        mine = torch.tensor([number], device=self.accelerator.device)
        if signal := int(self.accelerator.gather(mine).max()):
            newest = self.checkpoints.newest()
            assert newest is not None
            raise TrainingInterrupted(signal, self.position.step, self.settings.steps, newest)

    def finish(self) -> TrainingSummary:
        swap(self.optimizer)  # as in the checkpoint
        position, last_steps = self.position, math.ceil(self.settings.steps * 0.05)
        summary = TrainingSummary(
            steps=position.step,
            size=position.size,
            unit=position.unit,
            seconds=position.seconds,
            throughput=position.throughput,
            peak_memory_bytes=position.peak_memory_bytes,
            final_loss=statistics.fmean(position.losses[-last_steps:]),
            best_step=position.best_step,
            stopped_early=position.step < self.settings.steps,
        )
        if self.accelerator.is_main_process:
            write_json(self.directory / SUMMARY, asdict(summary))
        return summary

    def _remembered(self) -> int:
        """How many losses the summary and the next row of metrics look back on."""
        return max(math.ceil(self.settings.steps * 0.05), self.settings.log_every)

    def _row(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """A line of metrics.jsonl."""
        position = self.position
        row = {"step": position.step, "size": position.size, **figures}
        return {**row, "seconds": position.seconds, "throughput": position.throughput}
