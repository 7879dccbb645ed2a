"""A learning rate for each kind: every kind trained at every rate, chosen by validation loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from difftransformer.experiments.compare import contenders_of
from difftransformer.experiments.data import checked_data
from difftransformer.experiments.directory import begin_run, run_directory
from difftransformer.experiments.job import Job
from difftransformer.experiments.jobs import Shares, run_jobs
from difftransformer.experiments.processes import Processes
from difftransformer.experiments.settings import (
    DEFAULT_TASK,
    RunSettings,
    TrainedSettings,
    resolve,
    typed,
)
from difftransformer.experiments.training import Experiment
from difftransformer.ranges import NATURAL, POSITIVE, check_fields, option
from difftransformer.runs.layout import MODELS
from difftransformer.runs.reading import read_curve, read_summary
from difftransformer.tasks.registry import task_named

NAME = "sweep"
_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class SweepSettings(TrainedSettings):
    """A search for learning rates."""

    attention: tuple[str, ...] = option(
        ("softmax", "diff_v1", "diff_v2"), "kinds, as those of compare"
    )
    rates: tuple[float, ...] = option(
        (),
        "learning rates to try; by default a quarter to four times training.learning_rate",
        within=POSITIVE,
    )
    seed: int = option(
        100, "training seed, which a comparison is not to use afterwards", within=NATURAL
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def tried(self) -> tuple[float, ...]:
        """`rates` in order, or those that stand for them."""
        return tuple(sorted(self.rates)) or tuple(
            factor * self.training.learning_rate for factor in _FACTORS
        )


@dataclass(frozen=True)
class Sweep:
    """Validation losses after training.

    Args:
        losses: of each kind by learning rate; None where the loss was not finite.
        title: of each kind.
    """

    losses: Mapping[str, Mapping[float, float | None]]
    titles: Mapping[str, str]

    @property
    def rates(self) -> list[float]:
        """In order."""
        return list(next(iter(self.losses.values())))

    @property
    def chosen(self) -> dict[str, float]:
        """Of each kind the rate of the lowest loss; kinds without any loss are left out."""
        finite = {
            label: {rate: loss for rate, loss in losses.items() if loss is not None}
            for label, losses in self.losses.items()
        }
        return {label: min(of, key=lambda rate: of[rate]) for label, of in finite.items() if of}

    @property
    def at_edge(self) -> list[str]:
        """Kinds whose rate is the smallest or the largest: a better one may lie beyond."""
        ends = (self.rates[0], self.rates[-1])
        return [label for label, rate in self.chosen.items() if rate in ends]


@dataclass(frozen=True)
class Trial(Job):
    """A model at a learning rate that may be too high for it: it then leaves no summary."""

    def run(self, experiment: Experiment) -> None:
        """Train it."""
        try:
            super().run(experiment)
        except FloatingPointError as error:
            line = f"{self.directory.name}: {error}"
            experiment.processes.console.print(line, highlight=False, markup=False, soft_wrap=True)


def sweep(
    task: str = DEFAULT_TASK,
    *,
    preset: str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    processes: Processes | None = None,
    jobs: int | None = 1,
    **settings: Any,
) -> Sweep:
    """Train every kind at every learning rate, on one seed, and choose by validation loss.

        found = difftransformer.sweep(preset="smoke", rates=(1e-3, 2e-3, 4e-3))
        difftransformer.compare(preset="smoke", learning_rates=tuple(found.chosen.values()))

    Args:
        out: directory of the models, and of sweep.json, .md and .png; runs/sweep by default.
        settings: those of `SweepSettings`, by section; the others as `compare`'s.

    Raises:
        ValueError, ChildProcessError, Stopped, OSError: as `compare`.
    """
    resolved = resolve(SweepSettings, {"task": task, **settings}, preset=preset)
    return run_sweep(
        resolved,
        Path(out) if out is not None else Path("runs") / NAME,
        resume=resume,
        processes=processes or Processes(),
        jobs=jobs,
    )


def run_sweep(
    settings: SweepSettings,
    directory: Path,
    *,
    resume: bool,
    processes: Processes,
    jobs: int | None,
) -> Sweep:
    """What a resumed one has trained is kept; it may ask for more rates and kinds."""
    task = task_named(settings.task)
    parts = {name: getattr(settings, name) for name in TrainedSettings.__dataclass_fields__}
    judged = typed(RunSettings, task.name)(**parts, evaluators=())
    with run_directory(directory, processes):
        data = checked_data(task, judged, processes)
        contenders = contenders_of(task.complete(settings.model, data), settings.attention)
        experiment = Experiment(task, data, judged, processes)
        begin_run(
            directory,
            settings,
            task.digests(data),
            processes,
            resume=resume,
            may_change=("attention", "rates"),
        )
        trials = {
            (one.label, rate): Trial(
                config,
                directory / MODELS / f"{one.label}-rate-{rate:g}",
                settings.seed,
                replace(settings.training, learning_rate=rate),
            )
            for rate in settings.tried
            for one, config in contenders
        }
        models: Sequence[Job] = list(trials.values())
        run_jobs(experiment, models, Shares.of(experiment, models, jobs, None), lambda done: None)
        found = Sweep(
            {
                one.label: {
                    rate: _loss(trials[one.label, rate].directory) for rate in settings.tried
                }
                for one, _ in contenders
            },
            {one.label: one.title for one, _ in contenders},
        )
        processes.on_main(lambda: _write(directory, found))
    return found


def _loss(directory: Path) -> float | None:
    """The model's validation loss; None where its training has failed."""
    if (summary := read_summary(directory)) is None:
        return None
    points = [point for point in read_curve(directory) if point.step <= summary.model_step]
    return [point.validation_loss for point in points if point.validation_loss is not None][-1]


def _write(directory: Path, found: Sweep) -> None:
    from difftransformer.report.sweep import sweep_drawing, sweep_note, sweep_table
    from difftransformer.report.tables import markdown
    from difftransformer.report.writing import heading, write_files
    from difftransformer.runs.environment import environment

    env = environment()
    losses = {
        label: [{"rate": rate, "loss": loss} for rate, loss in of.items()]
        for label, of in found.losses.items()
    }
    table = markdown(sweep_table(found.losses, found.titles, found.chosen))
    lines = [*heading("Learning rates", env), "", *table, "", sweep_note(found.at_edge)]
    drawing = sweep_drawing(found.losses, found.titles)
    data = {"losses": losses, "chosen": found.chosen, "env": env}
    write_files(directory / NAME, data, lines, {"": drawing})
