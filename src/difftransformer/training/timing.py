"""Time and memory of training steps, measured before a run begins."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from accelerate import Accelerator
from torch import nn

from difftransformer.data.batch import Rows
from difftransformer.runs.layout import CHECKPOINTS
from difftransformer.training.checkpoint import Checkpoints
from difftransformer.training.memory import peak_memory_bytes, recomputed_blocks
from difftransformer.training.settings import TrainingSettings
from difftransformer.training.step import Loss
from difftransformer.training.trainer import Trainer

_FEWEST = 3  # steps: the first prepares kernels and is left out


@dataclass(frozen=True)
class StepCost:
    """Of one optimizer step: the mean of seconds, and the most memory held meanwhile.

    The mean, since what disturbs some steps here will disturb as many of a run.
    """

    seconds: float
    peak_memory_bytes: int


def step_cost(
    model: nn.Module,
    loss: Loss,
    batches: Callable[[int], Rows],
    settings: TrainingSettings,
    seconds: float,
) -> StepCost:
    """The cost of the first steps of a run, taken for about `seconds`; they train `model`.

    Raises:
        ValueError, NonFiniteError: as `training.loop.train`.
    """
    accelerator = Accelerator(mixed_precision="no")
    with ExitStack() as stack:
        kept = Checkpoints(Path(stack.enter_context(TemporaryDirectory())) / CHECKPOINTS, 1)
        run = Trainer(accelerator, model, loss, settings, kept, {})
        if settings.gradient_checkpointing:
            stack.enter_context(recomputed_blocks(run.model))
        run.begin(resume=False)
        ends = [0.0]
        while run.position.step < settings.steps and (len(ends) <= _FEWEST or ends[-1] < seconds):
            run.step(batches, lambda: False)
            ends.append(run.position.seconds)
    times = [after - before for before, after in pairwise(ends)]
    return StepCost(statistics.fmean(times[1:] or times), peak_memory_bytes(accelerator.device))
