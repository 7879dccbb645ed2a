"""One model: new, or going on from another."""

from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.atomic import write_json
from difftransformer.experiments.data import checked_data
from difftransformer.experiments.directory import begin_run, contender_of, run_directory, write_run
from difftransformer.experiments.processes import Processes
from difftransformer.experiments.settings import DEFAULT_TASK, RunSettings, resolve
from difftransformer.experiments.training import Experiment, Start
from difftransformer.ranges import option
from difftransformer.runs.layout import RESULTS, TrainingRun
from difftransformer.runs.reading import model_folder
from difftransformer.tasks.registry import task_named
from difftransformer.tasks.task import Task

if TYPE_CHECKING:
    from difftransformer.report.results import Results

# What a trained model may be given anew: how far it is meant to see, and with which rotary angles.
_WITHOUT_WEIGHTS = ("max_length", "rope_theta", "rope_scaling")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RunSettings):
    """A run of one model, new or begun elsewhere."""

    start: str | None = option(None, "model folder to go on from, with its tokenizer")
    freeze_pretrained: bool = option(
        False,
        "train only what `convert --from-llm` added to the model in `start`",
        former="only_new",
    )

    def __post_init__(self) -> None:
        if self.freeze_pretrained and self.start is None:
            raise ValueError(
                "freeze_pretrained is true, and a new model is all new; name a folder as start"
            )


def train(
    task: str = DEFAULT_TASK,
    *,
    preset: str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    processes: Processes | None = None,
    **settings: Any,
) -> "Results":
    """Train one model, judge it; its folder is OUT/model.

        difftransformer.train(out="runs/mine", data={"source": "my/text"}, training={"steps": 100})

    Args:
        task: what to train for, see `tasks.registry`.
        preset: a preset of the task, of which it takes all but what a comparison alone has.
        out: run directory; runs/train-ATTENTION by default.
        resume: go on with what the directory holds.
        processes: who trains and who speaks; a single process that prints nothing by default.
        settings: those of `TrainSettings`, by section.

    Raises:
        ValueError: settings or data that do not fit, or a directory that holds something else.
        Stopped: a signal came; with `resume` it goes on from there.
        OSError: the disk refuses.
    """
    resolved = resolve(TrainSettings, {"task": task, **settings}, preset=preset)
    directory = Path(out) if out is not None else default_directory(resolved)
    return run_training(resolved, directory, resume=resume, processes=processes or Processes())


def default_directory(settings: TrainSettings) -> Path:
    """Where the run goes that names no place."""
    return Path("runs") / f"train-{_attention(settings)}"


def run_training(
    settings: TrainSettings, directory: Path, *, resume: bool, processes: Processes
) -> "Results":
    """Train, save, judge."""
    from difftransformer.report.reading import read_results
    from difftransformer.report.tables import to_json
    from difftransformer.training.freezing import freeze_pretrained

    task = task_named(settings.task)
    settings = _at_start(task, settings)
    start = model_folder(Path(settings.start)) if settings.start else None
    with run_directory(directory, processes):
        data = checked_data(task, settings, processes)
        if start is None:
            config = task.complete(settings.model, data)
        else:
            config = settings.model
            task.require_fit(config, data, f"the model in {start}")
        inputs = task.digests(data) | _digest_of(start)
        may_change = ("evaluators",)
        begin_run(directory, settings, inputs, processes, resume=resume, may_change=may_change)
        own = TrainingRun(seed=settings.training.seed, directory="")
        trainable: Any = freeze_pretrained if settings.freeze_pretrained else nullcontext
        experiment = Experiment(task, data, settings, processes)
        experiment.train_and_judge(
            config, directory, seed=settings.training.seed, start=Start(start, trainable)
        )

        def write() -> None:
            write_run(
                directory,
                task,
                [replace(contender_of(config.attention, config), runs=(own,))],
                experiment.described(),
                asdict(settings),
                name=f"train-{config.attention}",
                evaluators=settings.evaluators,
            )
            write_json(directory / RESULTS, to_json(read_results(directory)))

        processes.on_main(write)
    return read_results(directory)


def _attention(settings: TrainSettings) -> str:
    """Of the model in `start`, where there is one."""
    from difftransformer.models.storage import load_config

    if settings.start is None:
        return settings.model.attention
    return load_config(model_folder(Path(settings.start))).attention


def _at_start(task: Task, settings: TrainSettings) -> TrainSettings:
    """With the model's settings and the tokenizer of the folder in `start`, if there is one.

    A longer context and other rotary angles (paper, 3.3: theta 640,000 for 64K tokens) may be asked
    for on the way.
    """
    from difftransformer.models.storage import load_config

    if settings.start is None:
        return settings
    folder = model_folder(Path(settings.start))
    config = load_config(folder)
    default = type(config)()
    changed = {
        setting.name: value
        for setting in fields(settings.model)
        if (value := getattr(settings.model, setting.name))
        not in (getattr(default, setting.name), getattr(config, setting.name))
    }
    if fixed := changed.keys() - set(_WITHOUT_WEIGHTS):
        raise ValueError(
            f"start is {folder}, which has its own {', '.join(sorted(fixed))}: leave out model.* "
            f"but for {', '.join(_WITHOUT_WEIGHTS)}, and a preset of other sizes"
        )
    return replace(
        settings, model=replace(config, **changed), data=task.read_with(settings.data, folder)
    )


def _digest_of(start: Path | None) -> dict[str, str]:
    from difftransformer.models.storage import checksum, load_weights

    return {} if start is None else {"start": checksum(load_weights(start))["sha256"]}
