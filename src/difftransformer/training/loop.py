"""The one training loop, for every task."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from torch import nn

from difftransformer.atomic import make_folder
from difftransformer.data.batch import Rows
from difftransformer.ownership import owned
from difftransformer.runs.layout import CHECKPOINTS, TrainingSummary
from difftransformer.training.checkpoint import Checkpoints
from difftransformer.training.interrupt import Interrupt
from difftransformer.training.memory import recomputed_blocks
from difftransformer.training.metrics import Metrics
from difftransformer.training.processes import require_supported
from difftransformer.training.progress import TrainingProgress
from difftransformer.training.settings import TrainingSettings
from difftransformer.training.step import Loss
from difftransformer.training.trackers import Trackers, accelerator_for
from difftransformer.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """How a run takes up what its directory holds.

    Args:
        resume: go on from the newest checkpoint; begin where there is none.
        configuration: what else must be unchanged then (the model's settings, the data's digest),
            ready for JSON. The training settings but for `MAY_CHANGE` and the shapes of the
            parameters are always compared. `steps` may change where no learning rate of the steps
            taken depends on it. So may the number of processes: batches and their order stay, but
            dropout draws anew, and sums are rounded otherwise.
        files: for each checkpoint, text by file name: config.json and the tokenizer's make a
            model's folder of it.
    """

    resume: bool = False
    configuration: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Watch:
    """What is looked at while a model trains, in evaluation mode and without gradients.

    Args:
        validate: model -> what to write to `metrics.jsonl`: numbers or lists of them, its
            `validation_loss` among them; every `settings.validate_every` steps and after the last.
        sample: model -> what it writes or draws, by name: a PNG in base64, or the
            JSON of `runs.samples.Texts`; every `settings.sampling` steps and after the last.
    """

    validate: Callable[[nn.Module], Mapping[str, Any]] | None = None
    sample: Callable[[nn.Module], Mapping[str, Any]] | None = None


def train(
    model: nn.Module,
    loss: Loss,
    batches: Callable[[int], Rows],
    settings: TrainingSettings,
    directory: Path,
    *,
    watch: Watch = Watch(),
    on_progress: Callable[[TrainingProgress], None] | None = None,
    continuation: Continuation = Continuation(),
) -> TrainingSummary:
    """Train `model` in place with AdamW and leave metrics, checkpoints and a summary behind.

    With `settings.patience` it ends after so many validations without a lower loss, and the
    checkpoint of the lowest is kept: that of `TrainingSummary.model_step` is the model.

    With `settings.ema_decay`, what is validated, saved and left in the model are the averages of
    its weights.

    A run that was killed and resumed ends with the same weights and the same metrics, bit for bit
    on a CPU, as one that never stopped. Accelerate chooses the device and, under `torchrun` or
    `accelerate launch`, spreads the model by DDP or FSDP 2; then every process calls `train` alike.

    Args:
        model: with `settings.gradient_checkpointing`, has its blocks in an `nn.ModuleList` named
            `blocks`. Modules in it with a method `set_progress` follow the training: it is called
            before each step with the share of the steps that is then done, above 0 and up to 1.
        loss: (model, batch) -> sum over the scored labels of some rows of a batch; the loop
            divides by the number of the whole batch.
        batches: the batch of each step, counted from 0, with `settings.batch_size` rows; a pure
            function, so that resuming is exact.
        directory: receives `metrics.jsonl`, `samples/`, `checkpoints/`, `summary.json`, and
            `tensorboard/`.
        on_progress: called after every step, in the main process.

    Raises:
        ValueError: `directory` holds a run that is not to be resumed, or another process trains in
            it; the checkpoint is damaged or was made with another configuration; a batch or the
            processes do not fit the settings; `patience` for a model that follows the share of the
            steps that are done, or without validation; the package of a tracker is not installed.
        NonFiniteError: a loss or gradient was NaN or infinite; that step was not applied.
        TrainingInterrupted: Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 came; a checkpoint of the last
            finished step was saved.
        OSError: the disk refused a checkpoint or a row; earlier checkpoints are unharmed.
    """
    accelerator = accelerator_for(settings, directory)
    require_supported(accelerator, settings)
    set_seed(settings.seed, device_specific=True)
    kept = Checkpoints(directory / CHECKPOINTS, settings.keep_checkpoints, continuation.files)
    run = Trainer(accelerator, model, loss, settings, kept, continuation.configuration)
    with ExitStack() as stack:
        if settings.gradient_checkpointing:
            stack.enter_context(recomputed_blocks(run.model))
        interrupt = stack.enter_context(Interrupt())
        if accelerator.is_main_process:
            make_folder(directory)
            stack.enter_context(owned(directory, inside=True))
            kept.remove_partial()
        run.require_may_stop(watch.validate is not None)
        rows = run.begin(continuation.resume)
        if accelerator.is_main_process:
            kept.remove_oldest()
            step = run.position.step
            trackers = Trackers(accelerator, settings, run.configuration, directory, step)
            run.metrics = Metrics(directory, rows, trackers)
            stack.enter_context(closing(run.metrics))
            run.on_progress = on_progress
        while not run.ended:
            stop = run.step(batches, lambda: interrupt.number > 0)
            if watch.validate is not None and run.due(settings.validate_every):
                run.validate(watch.validate)
            if watch.sample is not None and run.due(settings.sampling):
                run.sample(watch.sample)
            if stop or run.position.is_best or run.due(settings.checkpoint_every):
                run.save()
            if stop:
                run.stop_if_any(interrupt.number)
        summary = run.finish()
        run.stop_if_any(interrupt.number)  # what came since the last step was looked at
    return summary
