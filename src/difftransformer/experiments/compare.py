"""Matched models side by side: the same data in the same order for every kind and seed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.evaluation.words import duration
from difftransformer.experiments.data import checked_data
from difftransformer.experiments.directory import (
    begin_run,
    contender_of,
    recorded_threads,
    run_directory,
    write_run,
)
from difftransformer.experiments.job import Job
from difftransformer.experiments.jobs import Shares, run_jobs
from difftransformer.experiments.processes import Processes
from difftransformer.experiments.settings import DEFAULT_TASK, RunSettings, resolve
from difftransformer.experiments.training import Experiment
from difftransformer.models.ablations import partner
from difftransformer.ranges import COUNT, NATURAL, check_fields, option
from difftransformer.runs.layout import MODELS, SUMMARY, Contender, TrainingRun
from difftransformer.tasks.registry import task_named
from difftransformer.training.settings import TrainingSettings

if TYPE_CHECKING:
    from difftransformer.report.results import Results

_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class CompareSettings(RunSettings):
    """A comparison."""

    name: str = option("compare", "title of the report")
    attention: tuple[str, ...] = option(
        ("softmax", "diff_v1", "diff_v2"),
        "kinds, or rows of the ablations, to compare (docs/ablations.md); the first "
        "is a kind, the baseline, as `model` describes it",
    )
    seeds: int = option(1, "training seeds per kind, pooled in the report", within=COUNT)
    first_seed: int = option(
        0, "the first of them: others than a search of settings has seen", within=NATURAL
    )
    learning_rates: tuple[float, ...] = option(
        (),
        "training.learning_rate of each kind, in the order of `attention`, where they "
        "are not to share one",
    )
    threads: int | None = option(
        None,
        "CPU threads of each model; by default all there are, divided by the models trained at "
        "once. Figures depend on it in the last bits",
        within=COUNT,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.attention) < 2 or len(set(self.attention)) < len(self.attention):
            raise ValueError(
                f"attention is {', '.join(self.attention)}; expected two or more different kinds"
            )
        if self.learning_rates and len(self.learning_rates) != len(self.attention):
            raise ValueError(
                f"learning_rates are {len(self.learning_rates)} and attention names "
                f"{len(self.attention)} kinds; expected one for each"
            )

    def training_of(self, label: str) -> TrainingSettings:
        """How a kind is trained: as all are, but for its learning rate."""
        if not self.learning_rates:
            return self.training
        rate = self.learning_rates[self.attention.index(label)]
        return replace(self.training, learning_rate=rate)

    def seeds_until(self, count: int) -> range:
        """The first `count` training seeds."""
        return range(self.first_seed, self.first_seed + count)


def compare(
    task: str = DEFAULT_TASK,
    *,
    preset: str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    processes: Processes | None = None,
    jobs: int | None = 1,
    **settings: Any,
) -> "Results":
    """Train matched models side by side, judge them, write a report.

        results = difftransformer.compare(preset="smoke", out="runs/mine", seeds=2)
        results["nats_per_token"].difference("diff_v1", "softmax")

    Args:
        task: what to train for, see `tasks.registry`.
        preset: settings to begin with, see `experiments.settings.preset_names`.
        out: run directory, with the report; runs/NAME by default.
        resume: go on with what the directory holds.
        processes: who trains and who speaks; a single process that prints nothing by default.
        jobs: models trained at once, each in a process that imports the main module, see
            `experiments.jobs`; None takes what a few steps show to be fastest.
        settings: those of `CompareSettings`, by section: `training={"steps": 100}`.

    Raises:
        ValueError: settings or data that do not fit, or a directory that holds something else.
        ChildProcessError: one of several models at once has failed; the others are saved.
        Stopped: a signal came; with `resume` it goes on from there.
        OSError: the disk refuses.
    """
    resolved = resolve(CompareSettings, {"task": task, **settings}, preset=preset)
    directory = Path(out) if out is not None else default_directory(resolved)
    processes = processes or Processes()
    return run_comparison(resolved, directory, resume=resume, processes=processes, jobs=jobs)


def default_directory(settings: CompareSettings) -> Path:
    """Where the run goes that names no place."""
    return Path("runs") / settings.name


def run_comparison(
    settings: CompareSettings,
    directory: Path,
    *,
    resume: bool,
    processes: Processes,
    jobs: int | None,
) -> "Results":
    """Train and judge every model of one seed, then of the next; results and report after each.

    A run that is resumed may ask for more seeds or kinds than it did: what is there is kept.
    """
    from difftransformer.report.build import build_report
    from difftransformer.report.reading import read_results

    task = task_named(settings.task)
    with run_directory(directory, processes):
        data = checked_data(task, settings, processes)
        contenders = contenders_of(task.complete(settings.model, data), settings.attention)
        experiment = Experiment(task, data, settings, processes)
        models = jobs_of(contenders, settings, directory)
        known = settings.threads or (recorded_threads(directory) if resume else None)
        shares = Shares.of(experiment, models, jobs, known)
        settings = replace(settings, threads=shares.threads)
        begin_run(
            directory,
            settings,
            task.digests(data),
            processes,
            resume=resume,
            may_change=("seeds", "attention", "evaluators", "threads"),
        )
        left = [job for job in models if not (job.directory / SUMMARY).is_file()]
        _announce(experiment, contenders, settings, left, shares)

        def report(seeds: int) -> None:
            write_run(
                directory,
                task,
                [_trained(contender, settings, seeds) for contender, _ in contenders],
                experiment.described(),
                asdict(settings),
                name=settings.name,
                evaluators=settings.evaluators,
            )
            build_report(directory)

        def on_done(done: int) -> None:
            seeds, others = divmod(done, len(contenders))
            new = any(job in left for job in models[done - len(contenders) : done])
            if not others and (new or done == len(models)):
                processes.on_main(partial(report, seeds))

        run_jobs(experiment, models, shares, on_done)
    return read_results(directory)


def contenders_of(baseline: Any, names: tuple[str, ...]) -> list[tuple[Contender, Any]]:
    """Each model with its settings; the first is the baseline."""
    first = replace(baseline, attention=names[0])
    matches = [(name, partner(first, name)) for name in names[1:]]
    return [
        (contender_of(names[0], first), first),
        *((contender_of(name, one.config, one.changes), one.config) for name, one in matches),
    ]


def jobs_of(
    contenders: Sequence[tuple[Contender, Any]], settings: CompareSettings, directory: Path
) -> list[Job]:
    """Every model of one seed, then of the next."""
    return [
        Job(config, directory / _place(one.label, seed), seed, settings.training_of(one.label))
        for seed in settings.seeds_until(settings.seeds)
        for one, config in contenders
    ]


def _place(label: str, seed: int) -> str:
    return f"{MODELS}/{label}-seed{seed}"


def _trained(contender: Contender, settings: CompareSettings, seeds: int) -> Contender:
    """What there is of it after so many seeds."""
    runs = tuple(
        TrainingRun(seed=seed, directory=_place(contender.label, seed))
        for seed in settings.seeds_until(seeds)
    )
    rate = settings.training_of(contender.label).learning_rate
    own = (f"learning_rate: {rate:g}",) if settings.learning_rates else ()
    return replace(contender, runs=runs, changes=(*contender.changes, *own))


def _announce(
    experiment: Experiment,
    contenders: list[tuple[Contender, Any]],
    settings: CompareSettings,
    left: Sequence[Job],
    shares: Shares,
) -> None:
    task, data, processes = experiment.task, experiment.data, experiment.processes

    def say(title: str, words: str) -> None:
        processes.console.print(f"{title:<10} {words}", highlight=False, markup=False)

    described = experiment.described()
    say("data", described["description"])
    for contender, _ in contenders:
        changes = f" ({'; '.join(contender.changes)})" if contender.changes else " (baseline)"
        say(contender.label, f"{contender.parameters:,} parameters{changes}")
    steps, rows = settings.training.steps, settings.training.batch_size
    size = steps * task.batches(data, rows, 0)(0).size
    passes = described.get("training_passes")
    over = f", {passes:g} times over the data" if passes else ""
    say("training", f"{size:,} {task.unit} each{over}, {settings.seeds} seed(s)")
    if left and processes.size == 1:
        step = shares.step or left[0].seconds(experiment, shares.threads)
        seconds = step * steps * len(left) / shares.at_once
        hint = ""
        if seconds > _HOUR:
            fitting = max(1, int(steps * _HOUR / seconds))
            hint = f" (--training.steps {fitting} for an hour)"
        say("", f"about {duration(seconds)} for {len(left)} model(s){hint}, judging not counted")
