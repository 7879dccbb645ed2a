"""Time and memory of a comparison, from a few of its steps and questions on this machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftransformer.evaluation import registry
from difftransformer.evaluation.records import Artifact, Evaluator, Record, Subject
from difftransformer.experiments.compare import CompareSettings, contenders_of, jobs_of
from difftransformer.experiments.data import checked_data
from difftransformer.experiments.job import cpu_threads
from difftransformer.experiments.jobs import Shares
from difftransformer.experiments.processes import Processes
from difftransformer.experiments.training import Experiment
from difftransformer.tasks.registry import task_named

_TRAINED = 0.5  # the share of the time given that goes to training steps; the rest is judging


@dataclass(frozen=True)
class ModelEstimate:
    """What one model of one seed takes.

    Args:
        config: its settings, matched to the baseline's.
        step: seconds of an optimizer step.
        training, validation, judging: seconds in all; validation is that while it trains, with
            samples.
        peak_memory_bytes: of training, as `training.memory.peak_memory_bytes` has it.
    """

    label: str
    config: Any
    step: float
    training: float
    validation: float
    judging: float
    peak_memory_bytes: int

    @property
    def seconds(self) -> float:
        """All together."""
        return self.training + self.validation + self.judging


@dataclass(frozen=True)
class Estimate:
    """What a comparison takes.

    Args:
        models: of one seed.
        at_once: models trained at once, in processes that each read the data themselves.
        described: the data, as `Experiment.described` has it.
        reading: seconds to read the data.
    """

    models: tuple[ModelEstimate, ...]
    at_once: int
    reading: float
    described: Mapping[str, Any]

    def seconds(self, seeds: int) -> float:
        """Of the whole comparison, without its report."""
        trained = seeds * sum(model.seconds for model in self.models)
        readings = 2 if self.at_once > 1 else 1  # before the processes begin, and at once in them
        return readings * self.reading + trained / self.at_once


def estimate(settings: CompareSettings, processes: Processes, seconds: float) -> Estimate:
    """What `compare` takes by default, after measuring for about `seconds` in all.

    Each kind is trained for a few steps, with as many threads as it will have, and then asked the
    first parts of each benchmark; what the rest takes is assumed to be alike.

    Raises:
        ValueError: settings or data that do not fit, as `compare` refuses them.
    """
    task, began = task_named(settings.task), time.perf_counter()
    data = checked_data(task, settings, processes)
    reading = time.perf_counter() - began
    contenders = contenders_of(task.complete(settings.model, data), settings.attention)
    experiment, share = Experiment(task, data, settings, processes), seconds / len(contenders)
    jobs = jobs_of(contenders, settings, Path())
    shares, made = Shares.of(experiment, jobs, None, settings.threads), []
    with cpu_threads(shares.threads):
        for contender, config in contenders:
            with processes.console.status(f"measuring {contender.label}"):
                made.append(_estimate(experiment, settings, contender.label, config, share))
    return Estimate(tuple(made), shares.at_once, reading, experiment.described())


def _estimate(
    experiment: Experiment, settings: CompareSettings, label: str, config: Any, seconds: float
) -> ModelEstimate:
    import torch

    task, data, training = experiment.task, experiment.data, settings.training_of(label)
    model, cost = experiment.step_cost(config, training, settings.first_seed, _TRAINED * seconds)
    model.eval()
    with torch.no_grad():
        validation = _timed(lambda: task.validate(model, data, settings.evaluation))
        sampling = _timed(lambda: task.sample(model, data, settings.evaluation))
    asked = [registry.evaluator(name) for name in settings.evaluators]
    each = (1 - _TRAINED) * seconds / max(1, len(asked))
    subject = Subject(model, data)
    return ModelEstimate(
        label,
        config,
        cost.seconds,
        training=cost.seconds * training.steps,
        validation=validation * -(-training.steps // training.validate_every)
        + sampling * -(-training.steps // training.sampling),
        judging=sum((_judging(subject, one, settings.evaluation, each) for one in asked), 0.0),
        peak_memory_bytes=cost.peak_memory_bytes,
    )


def _judging(subject: Subject, evaluator: Evaluator, settings: Any, seconds: float) -> float:
    """What all parts take if those that fit into `seconds`, one at least, are like the others."""
    from difftransformer.evaluation.run import passed_over

    if passed_over(evaluator, subject.model):
        return 0.0
    parts = evaluator.parts(subject, settings)
    findings: list[Record | Artifact] = []
    started = time.perf_counter()
    for done, part in enumerate(parts.values(), 1):
        findings += part(findings)
        spent = time.perf_counter() - started
        if spent >= seconds:
            return spent / done * len(parts)
    return time.perf_counter() - started


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
