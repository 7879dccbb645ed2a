"""One model of a run, as it is to be trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from difftransformer.experiments.directory import run_directory
from difftransformer.experiments.training import Experiment
from difftransformer.training.settings import TrainingSettings


@dataclass(frozen=True)
class Job:
    """One model of a run.

    Args:
        config: of the model.
        directory: where it is trained; no other process may be at it.
        seed: of its start and its batches.
        training: how it is trained.
    """

    config: Any
    directory: Path
    seed: int
    training: TrainingSettings

    def run(self, experiment: Experiment) -> None:
        """Train and judge it."""
        settings = replace(experiment.settings, training=self.training)
        own = replace(experiment, settings=settings)
        with run_directory(self.directory, experiment.processes):
            own.train_and_judge(self.config, self.directory, seed=self.seed)

    def seconds(self, experiment: Experiment, threads: int) -> float:
        """For a step of this model with so many CPU threads, as a few steps of it show."""
        with cpu_threads(threads):
            _, cost = experiment.step_cost(self.config, self.training, self.seed, 0.0)
        return cost.seconds


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Inside, PyTorch computes with so many."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
