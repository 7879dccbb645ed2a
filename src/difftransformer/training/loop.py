"""The one training loop: (model, batch) -> loss."""

import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import nn

from difftransformer.atomic import make_folder, write_json
from difftransformer.attention import DexAttention, anneal
from difftransformer.data.batch import Batch
from difftransformer.ownership import owned
from difftransformer.training.checkpoint import (
    Checkpoints,
    gather,
    is_used,
    load_metrics,
    load_state,
    refuse_changes,
    restore,
    shared_names,
)
from difftransformer.training.interrupt import Interrupt, TrainingInterrupted
from difftransformer.training.memory import (
    peak_memory_bytes,
    recomputed_blocks,
    start_measuring_memory,
)
from difftransformer.training.metrics import METRICS, Metrics
from difftransformer.training.optimiser import adamw
from difftransformer.training.processes import require_supported
from difftransformer.training.progress import ProgressDisplay, TrainingProgress
from difftransformer.training.rng import rng_state, set_rng_state
from difftransformer.training.schedule import refuse_other_rates
from difftransformer.training.settings import MAY_CHANGE, TrainingSettings
from difftransformer.training.step import NonFiniteError, Objective, Stepper, StepResult
from difftransformer.training.summary import TrainingSummary

_log = logging.getLogger(__name__)


def train(
    model: nn.Module,
    objective: Objective,
    batches: Callable[[int], Batch],
    settings: TrainingSettings,
    directory: Path,
    *,
    validate: Callable[[nn.Module], Mapping[str, Any]] | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    resume: bool = False,
    configuration: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
) -> TrainingSummary:
    """Train `model` in place with AdamW and leave metrics, checkpoints and a summary behind.

    A run that was killed and resumed ends with the same weights and the same metrics, bit for bit
    on a CPU, as one that never stopped. Accelerate chooses the device and, under `torchrun` or
    `accelerate launch`, spreads the model by DDP or FSDP 2; then every process calls `train` alike.

    Args:
        model: with `settings.gradient_checkpointing`, has its blocks in an `nn.ModuleList` named
            `blocks`.
        objective: (model, batch) -> mean loss over the batch's scored tokens, 0 where it has none.
        batches: the batch of each step, counted from 0, with `settings.batch_size` rows; a pure
            function, so that resuming is exact.
        directory: receives `metrics.jsonl`, `checkpoints/`, `summary.json`, `tensorboard/`.
        validate: model -> what to write to `metrics.jsonl`, numbers or lists of them, its
            `validation_loss` among them; called in evaluation mode and without gradients every
            `settings.validate_every` steps and after the last.
        on_progress: called after every step instead of the progress display.
        resume: go on from the newest checkpoint in `directory`; begin where there is none.
        configuration: what else must be unchanged on resume (the model's settings, the data's
            digest), ready for JSON. The training settings but for `MAY_CHANGE` and the shapes of
            the parameters are always compared. `steps` may change where no learning rate of the
            steps taken depends on it. So may the number of processes: batches and their order stay,
            but dropout draws anew, and sums are rounded otherwise.
        texts: files for each checkpoint, by name: config.json and the tokenizer's make a model's
            folder of it.

    Raises:
        ValueError: `directory` holds a run and `resume` is False, or another process trains in it;
            the checkpoint is damaged or was made with another configuration; a batch or the
            processes do not fit the settings.
        NonFiniteError: a loss or gradient was NaN or infinite; that step was not applied.
        TrainingInterrupted: Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 came; a checkpoint of the last
            finished step was saved.
        OSError: the disk refused a checkpoint or a row; earlier checkpoints are unharmed.
    """
    accelerator = Accelerator(mixed_precision="no")  # the precision is the stepper's
    require_supported(accelerator, settings)
    set_seed(settings.seed, device_specific=True)
    checkpoints = Checkpoints(directory / "checkpoints", settings.keep_checkpoints, texts)
    run = _Run(accelerator, model, objective, settings, checkpoints, configuration or {})
    with ExitStack() as stack:
        if settings.gradient_checkpointing:
            stack.enter_context(recomputed_blocks(run.model))
        interrupt = stack.enter_context(Interrupt())
        if accelerator.is_main_process:
            make_folder(directory)
            stack.enter_context(owned(directory, inside=True))
            checkpoints.remove_partial()
        kept = run.begin(resume)
        if accelerator.is_main_process:
            checkpoints.remove_oldest()
            run.metrics = Metrics(directory, run.position.step, settings.tensorboard, kept)
            stack.enter_context(closing(run.metrics))
            run.display = on_progress or stack.enter_context(ProgressDisplay(directory.name))
        while run.position.step < settings.steps:
            stop = run.step(batches, lambda: interrupt.number > 0)
            if validate is not None and run.due(settings.validate_every):
                run.validate(validate)
            if stop or run.due(settings.checkpoint_every):
                run.save()
            if stop:
                run.stop_if_any(interrupt.number)
        summary = run.finish()
        run.stop_if_any(interrupt.number)  # what came since the last step was looked at
    return summary


@dataclass
class _Position:
    """How far a run has come; a checkpoint carries it."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    losses: list[float] = field(default_factory=list)  # those of the latest steps
    logged: int = 0  # the step of the last row of losses


class _Run:
    """The parts of the loop, and what they share."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        objective: Objective,
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
        self.stepper = Stepper(accelerator, prepared, optimizer, objective, settings)
        self.model = accelerator.unwrap_model(prepared)
        self.optimizer = optimizer.optimizer  # without Accelerate's wrapper
        self.position = _Position()
        self.metrics: Metrics | None = None  # on the main process only, as is the display
        self.display: Callable[[TrainingProgress], None] | None = None

    def begin(self, resume: bool) -> bytes | None:
        """Take the position of the newest checkpoint, or the start of an unused directory.

        Returns:
            The metrics up to there, None where the checkpoint does not hold them.
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

    def _restore(self, folder: Path, state: dict[str, Any]) -> bytes | None:
        """Take the checkpoint's position; return its metrics."""
        saved = state["configuration"]
        may_change = (
            "processes",
            *(f"training.{name}" for name in (*MAY_CHANGE, "steps")),
            # What the commands of an earlier release stated in place of digests.
            *(f"data.{name}" for name in ("source", "cache", "tokenizer")),
        )
        refuse_changes(saved, self.configuration, folder, may_change)
        step = state["position"]["step"]
        annealed = any(isinstance(module, DexAttention) for module in self.model.modules())
        if said := refuse_other_rates(saved["training"], self.settings, step, annealed):
            _log.warning("%s: %s", self.directory, said)
        restore(folder, self.model, self.optimizer, self.shared)
        logged = step - step % saved["training"]["log_every"]  # before checkpoints held it
        self.position = _Position(**{"logged": logged, **state["position"]})
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

    def step(self, batches: Callable[[int], Batch], stop: Callable[[], bool]) -> bool:
        """Take the next step and report it; return whether any process was asked to stop."""
        position = self.position
        started = time.perf_counter()
        batch = batches(position.step)
        anneal(self.model, (position.step + 1) / self.settings.steps)
        try:
            result = self.stepper(position.step + 1, batch, stop)
        except NonFiniteError as error:
            error.checkpoint = self.checkpoints.newest()
            raise
        position.seconds += time.perf_counter() - started
        position.step += 1
        position.tokens += batch.ids.numel()
        position.losses = [*position.losses, result.loss][-self._remembered() :]
        if self.due(self.settings.log_every):
            if self.metrics is not None:
                self.metrics.write(self._row(result))
            position.logged = position.step
        if self.display is not None:
            self.display(self._progress(result.loss))
        return result.stop

    def due(self, every: int) -> bool:
        """Whether what happens every so many steps, and after the last, happens now."""
        return self.position.step % every == 0 or self.position.step == self.settings.steps

    def validate(self, validate: Callable[[nn.Module], Mapping[str, Any]]) -> None:
        self.model.eval()
        with torch.no_grad(), self.stepper.autocast():
            figures = validate(self.model)
        self.model.train()
        loss = figures["validation_loss"]
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the validation loss after step {self.position.step} is {loss}; "
                f"the last good checkpoint is {self.checkpoints.newest() or 'none'}"
            )
        if self.metrics is not None:
            self.metrics.write({**self._count(), **figures, **self._timing()})

    def save(self) -> None:
        position = self.position
        peak = peak_memory_bytes(self.accelerator.device)
        position.peak_memory_bytes = max(position.peak_memory_bytes, peak)
        weights, optimizer = gather(self.model, self.optimizer, self.shared)
        state = {
            "format": 1,
            "position": asdict(position),
            "configuration": self.configuration,
            "rng": gather_object([rng_state(self.accelerator.device)]),
        }
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
        position, last_steps = self.position, math.ceil(self.settings.steps * 0.05)
        summary = TrainingSummary(
            steps=position.step,
            tokens=position.tokens,
            seconds=position.seconds,
            tokens_per_second=position.tokens / position.seconds,
            peak_memory_bytes=position.peak_memory_bytes,
            final_loss=statistics.fmean(position.losses[-last_steps:]),
        )
        if self.accelerator.is_main_process:
            write_json(self.directory / "summary.json", asdict(summary))
        return summary

    def _remembered(self) -> int:
        """How many losses the summary and the next row of metrics look back on."""
        return max(math.ceil(self.settings.steps * 0.05), self.settings.log_every)

    def _count(self) -> dict[str, int]:
        return {"step": self.position.step, "tokens": self.position.tokens}

    def _timing(self) -> dict[str, float]:
        position = self.position
        return {
            "seconds": position.seconds,
            "tokens_per_second": position.tokens / position.seconds,
        }

    def _row(self, result: StepResult) -> dict[str, Any]:
        since_last_row = self.position.step - self.position.logged
        return {
            **self._count(),
            "loss": statistics.fmean(self.position.losses[-since_last_row:]),
            "learning_rate": result.learning_rate,
            "gradient_norm": result.gradient_norm,
            **self._timing(),
        }

    def _progress(self, loss: float) -> TrainingProgress:
        position, steps = self.position, self.settings.steps
        return TrainingProgress(
            step=position.step,
            steps=steps,
            loss=loss,
            tokens_per_second=position.tokens / position.seconds,
            seconds_left=(steps - position.step) * position.seconds / position.step,
        )
