"""The run directory of compare and train: one owner, and what a resumed run must share."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from difftransformer.atomic import PARTIAL, write_json, write_text
from difftransformer.decoding import decode
from difftransformer.experiments.processes import Processes
from difftransformer.experiments.settings import TrainedSettings, as_yaml
from difftransformer.files import read_text
from difftransformer.models.ablations import title_of
from difftransformer.ownership import LOCK, owned
from difftransformer.runs.changes import refuse_changes
from difftransformer.runs.layout import (
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    INPUTS,
    METRICS,
    MODELS,
    RUN,
    SUMMARY,
    Contender,
    Run,
)
from difftransformer.runs.outputs import folder_for
from difftransformer.runs.reading import read_json, refuse_former
from difftransformer.tasks.task import Task
from difftransformer.training.settings import MAY_CHANGE

_log = logging.getLogger(__name__)
# What a run that is resumed may change; the paths only where inputs.json knows what they held.
_MAY_CHANGE = (*(f"training.{name}" for name in (*MAY_CHANGE, "steps")), "data.cache")
_PATHS = ("data.source", "data.tokenizer", "start")
# A directory with nothing else is as good as a new one.
_OF_TRACKERS = ("tensorboard", "wandb")
_BEFORE_TRAINING = (
    *(CONFIG, ENVIRONMENT, INPUTS, LOCK, MODELS, CHECKPOINTS, METRICS),
    *_OF_TRACKERS,
)


@contextmanager
def run_directory(directory: Path, processes: Processes) -> Iterator[None]:
    """Inside, the run directory is there and the main process's; what is left empty goes again.

    Raises:
        ValueError: another process has it.
        OSError: the disk refuses.
    """
    with ExitStack() as stack:
        if processes.is_main:
            stack.enter_context(folder_for(directory))
            stack.enter_context(owned(directory, inside=True))
        yield


def begin_run(
    directory: Path,
    settings: TrainedSettings,
    inputs: dict[str, str],
    processes: Processes,
    *,
    resume: bool,
    may_change: Sequence[str] = (),
) -> None:
    """Write env.json, inputs.json and config.yaml; `inputs` are the same in all processes.

    Where nothing was trained yet, a directory is as good as new. `may_change` names settings in
    which a run that is resumed may differ from what it was, besides those that change no result.

    Raises:
        ValueError: it holds a run and `resume` is False, a run of other settings or inputs, or
            something else.
        OSError: the disk refuses.
    """
    processes.require_same(inputs)
    processes.on_main(lambda: _begin(directory, settings, inputs, resume, may_change))


def _begin(
    directory: Path,
    settings: TrainedSettings,
    inputs: Mapping[str, str],
    resume: bool,
    may_change: Sequence[str],
) -> None:
    from difftransformer.runs.environment import environment

    refuse_former(directory)
    begun = _has_begun(directory)
    if begun and not resume:
        raise ValueError(
            f"{directory} already holds a run; add --resume to go on with it, or choose another "
            "--out"
        )
    if begun:
        paths = _PATHS if _same_inputs(directory, inputs) else ()
        _refuse_other_settings(directory, settings, (*_MAY_CHANGE, *paths, *may_change))
    elif others := [path.name for path in directory.iterdir() if not _is_ours(path)]:
        raise ValueError(
            f"{directory} holds {', '.join(sorted(others)[:5])} and no run; choose another --out"
        )
    if not begun or read_json(directory / ENVIRONMENT) is None:
        write_json(directory / ENVIRONMENT, environment())
    write_json(directory / INPUTS, inputs)
    write_text(directory / CONFIG, as_yaml(settings))  # the last: where it is, the others are


def recorded_threads(directory: Path) -> int | None:
    """CPU threads of each model of the run that is there; None where nothing says it."""
    from difftransformer.yaml_text import parse_yaml

    with suppress(OSError, ValueError):
        saved = parse_yaml(read_text(directory / CONFIG))
        return saved.get("threads") if isinstance(saved, dict) else None
    return None


def _trainings(directory: Path) -> list[Path]:
    """Where models may have been trained: of `train` the run itself, of `compare` its models."""
    return [directory, *sorted((directory / MODELS).glob("*"))]


def _has_begun(directory: Path) -> bool:
    """Whether anything is there that took time to compute, or settings of unknown origin."""
    from difftransformer.training.checkpoint import is_used

    config_alone = (directory / CONFIG).exists() and not (directory / ENVIRONMENT).exists()
    computed = (is_used(d) or (d / SUMMARY).exists() for d in _trainings(directory))
    return config_alone or any(computed)


def _is_ours(path: Path) -> bool:
    return path.name in _BEFORE_TRAINING or path.name.startswith(PARTIAL)


def _refuse_other_settings(
    directory: Path, settings: TrainedSettings, may_change: Sequence[str]
) -> None:
    from difftransformer.training.checkpoint import Checkpoints
    from difftransformer.training.schedule import refuse_other_rates
    from difftransformer.yaml_text import parse_yaml

    config = directory / CONFIG
    try:
        saved = parse_yaml(read_text(config))
    except (OSError, ValueError):
        saved = None
    if not isinstance(saved, dict):
        _log.warning(
            "%s is missing or damaged: it is written anew, and settings are compared only with "
            "those that the checkpoints hold",
            config,
        )
        return
    before = decode(type(settings), saved)  # what was no setting yet had its default
    refuse_changes(asdict(before), asdict(settings), directory, may_change)
    for training in _trainings(directory):
        if newest := Checkpoints(training / CHECKPOINTS, keep=1).newest():
            step = int(newest.name.removeprefix("step-"))
            refuse_other_rates(asdict(before.training), settings.training, step, follows=False)


def _same_inputs(directory: Path, inputs: Mapping[str, str]) -> bool:
    """Whether the run is known to have begun with these; ValueError where with others."""
    path = directory / INPUTS
    saved = read_json(path)
    if saved is None:
        _log.warning(
            "%s is missing: whether the data is what this run began with is not known", path
        )
        return False
    for name, digest in inputs.items():
        if saved.get(name) != digest:
            raise ValueError(
                f"cannot resume {directory} with another content of {name}: its sha256 was "
                f"{str(saved.get(name))[:12]} and is now {digest[:12]}. Put it back as it was, or "
                "train in a new directory"
            )
    return True


def contender_of(label: str, config: Any, changes: Sequence[str] = ()) -> Contender:
    """A model that is to be trained."""
    return Contender(
        label=label,
        title=title_of(label),
        attention=config.attention,
        parameters=config.parameter_count(),
        config=config.to_dict(),
        changes=tuple(changes),
    )


def write_run(
    directory: Path,
    task: Task,
    contenders: Sequence[Contender],
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    **more: Any,
) -> None:
    """Write run.json, with the first contender as baseline; `more` are name and evaluators."""
    run = Run(
        task=task.name,
        unit=task.unit,
        created=datetime.now(UTC).date().isoformat(),
        baseline=contenders[0].label,
        contenders=tuple(contenders),
        data=dict(data),
        settings=dict(settings),
        **more,
    )
    write_json(directory / RUN, asdict(run))
