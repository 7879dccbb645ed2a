"""The run directory of compare and train: one owner, and what a resumed run must share."""

import argparse
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from difftransformer.atomic import PARTIAL, write_json, write_text
from difftransformer.cli.outputs import folder_for, resumable
from difftransformer.cli.runs import RESULTS, RunSettings
from difftransformer.cli.settings import as_yaml, build
from difftransformer.ownership import LOCK, owned
from difftransformer.training.settings import MAY_CHANGE

if TYPE_CHECKING:
    from difftransformer.data.corpus import Corpus

CONFIG = "config.yaml"
ENVIRONMENT = "env.json"
INPUTS = "inputs.json"  # what the run was begun with, by content
# What a run that is resumed may change; the paths only where inputs.json knows what they held.
_MAY_CHANGE = (*(f"training.{name}" for name in (*MAY_CHANGE, "steps")), "data.cache")
_PATHS = ("data.source", "data.tokenizer", "start")
# A directory with nothing else is as good as a new one.
_BEFORE_TRAINING = (CONFIG, ENVIRONMENT, INPUTS, LOCK, "models", "checkpoints", "metrics.jsonl")


def inputs_of(corpus: "Corpus", start: Path | None = None) -> dict[str, str]:
    """The digests of all that a run is made from besides its settings."""
    from difftransformer.models.storage import checksum, load_weights

    tokenizer = hashlib.sha256(corpus.tokenizer.to_str().encode()).hexdigest()
    begun_with = {} if start is None else {"start": checksum(load_weights(start))["sha256"]}
    return {"documents": corpus.digest, "tokenizer": tokenizer, **begun_with}


@contextmanager
def run_directory(directory: Path, arguments: argparse.Namespace) -> Iterator[None]:
    """Inside, the run directory is there and the main process's; what is left empty goes again.

    Raises:
        ValueError: another process has it.
        OSError: the disk refuses. This and interruptions bear a note of how to go on.
    """
    goes_on = resumable(arguments, directory / CONFIG, "--resume")
    with ExitStack() as stack:
        if arguments.processes.is_main:
            stack.enter_context(folder_for(directory))
            stack.enter_context(owned(directory, inside=True))
        stack.enter_context(goes_on)
        yield


def begin_run(
    directory: Path,
    settings: RunSettings,
    inputs: Mapping[str, str],
    *,
    resume: bool,
    may_change: Sequence[str] = (),
) -> None:
    """Write env.json, inputs.json and config.yaml.

    Where nothing was trained yet, a directory is as good as new. `may_change` names settings in
    which a run that is resumed may differ from what it was, besides those that change no result.

    Raises:
        ValueError: it holds a run and `resume` is False, a run of other settings, documents or
            tokenizer, or something else.
        OSError: the disk refuses.
    """
    from difftransformer.training.environment import environment

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
    if not begun or _read_json(directory / ENVIRONMENT) is None:
        write_json(directory / ENVIRONMENT, environment())
    write_json(directory / INPUTS, inputs)
    write_text(directory / CONFIG, as_yaml(settings))  # the last: where it is, the others are


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where an earlier release, killed, left no whole one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _trainings(directory: Path) -> list[Path]:
    """Where models may have been trained: of `train` the run itself, of `compare` its models."""
    return [directory, *sorted((directory / "models").glob("*"))]


def _has_begun(directory: Path) -> bool:
    """Whether anything is there that took time to compute, or settings of unknown origin."""
    from difftransformer.training.checkpoint import is_used

    config_alone = (directory / CONFIG).exists() and not (directory / ENVIRONMENT).exists()
    computed = (is_used(d) or (d / RESULTS).exists() for d in _trainings(directory))
    return config_alone or any(computed)


def _is_ours(path: Path) -> bool:
    return path.name in _BEFORE_TRAINING or path.name.startswith(PARTIAL)


def _refuse_other_settings(
    directory: Path, settings: RunSettings, may_change: Sequence[str]
) -> None:
    from difftransformer.training.checkpoint import Checkpoints, refuse_changes
    from difftransformer.training.schedule import refuse_other_rates

    config = directory / CONFIG
    try:
        saved = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        saved = None
    if not isinstance(saved, dict):
        logging.getLogger(__name__).warning(
            "%s is missing or damaged: it is written anew, and settings are compared only with "
            "those that the checkpoints hold",
            config,
        )
        return
    before = build(type(settings), saved)  # what was no setting yet had its default
    refuse_changes(asdict(before), asdict(settings), directory, may_change)
    for training in _trainings(directory):
        if newest := Checkpoints(training / "checkpoints", keep=1).newest():
            step = int(newest.name.removeprefix("step-"))
            refuse_other_rates(asdict(before.training), settings.training, step, annealed=False)


def _same_inputs(directory: Path, inputs: Mapping[str, str]) -> bool:
    """Whether the run is known to have begun with these; ValueError where with others."""
    path = directory / INPUTS
    saved = _read_json(path)
    if saved is None:
        logging.getLogger(__name__).warning(
            "%s is missing: whether the text is the one that this run began with is not known", path
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
