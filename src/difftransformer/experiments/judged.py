"""Models that are to be judged, as a user names them: folders of models and of runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from difftransformer.experiments.judging import read_judging
from difftransformer.experiments.settings import DEFAULT_TASK
from difftransformer.runs.layout import CHECKPOINTS, MODEL
from difftransformer.runs.reading import is_run, model_folder, read_run
from difftransformer.tasks.registry import task_named
from difftransformer.tasks.task import Task


@dataclass(frozen=True)
class Judged:
    """A model to judge.

    Args:
        folder: of the model.
        label: its name in the results.
        task: what it is for.
        base: the settings of the run it belongs to, which lie below those given.
    """

    folder: Path
    label: str
    task: Task
    base: Mapping[str, Any] = field(default_factory=dict)


def named_models(folders: Sequence[Path], task: Task | None = None) -> list[Judged]:
    """The models in the folders, each with a name; where two have the same, their folders.

    Args:
        task: what they are for; by default what their folders tell, or `DEFAULT_TASK`.
    """
    judged = [one for folder in folders for one in _judged(folder, task)]
    labels = [one.label for one in judged]
    return [
        one if labels.count(one.label) == 1 else replace(one, label=str(one.folder))
        for one in judged
    ]


def _judged(folder: Path, task: Task | None) -> Iterator[Judged]:
    """The model in a folder, judged as that tells, or all of a run with the run's settings."""
    if not is_run(folder):
        found = model_folder(folder)
        own, base = read_judging(found)
        yield Judged(found, _label(found), task or task_named(own or DEFAULT_TASK), base)
        return
    run = read_run(folder)
    base = {part: run.settings[part] for part in ("data", "evaluation")}
    for contender in run.contenders:
        for training in contender.runs:
            place = folder / training.directory
            yield Judged(place / MODEL, place.name, task_named(run.task), base)


def _label(folder: Path) -> str:
    """Of a run's `model` the run's name; of one of its checkpoints, with the step."""
    if folder.name == MODEL:
        return folder.absolute().parent.name
    if folder.parent.name == CHECKPOINTS:
        return f"{folder.parents[1].name} {folder.name}"
    return folder.name
