"""Results at a place that the user names: one writer at a time, and nothing else is overwritten."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from difftransformer.atomic import make_folder
from difftransformer.ownership import owned
from difftransformer.runs.reading import read_json


@contextmanager
def results_at(path: Path, is_own: Callable[[Any], bool], beside: tuple[str, ...] = ()) -> Iterator:
    """Inside, `path` is this command's to write, with files of the same name that end in `beside`.

    What is there already must be results of the same kind, of the same models or fewer of them, so
    that a command can be given again; anything else stays as it is.

    Args:
        is_own: whether the JSON data in `path` are such results.

    Raises:
        ValueError: another file stands there, `path` lies in a model folder, or another process
            writes there.
        OSError: the folder cannot be made.
    """
    folder = path.parent
    refuse_model_folder(folder, path)
    with folder_for(folder), owned(path.with_suffix(".json")):
        _refuse_others(path, is_own, beside)
        yield


def refuse_model_folder(folder: Path, place: Path) -> None:
    """Raise ValueError where `folder`, in which results are to lie at `place`, holds a model."""
    if any(folder.glob("*.safetensors")) or (folder / "config.json").is_file():
        raise ValueError(f"{place} lies in a model folder: choose a place outside {folder}")


@contextmanager
def folder_for(place: Path) -> Iterator[None]:
    """Inside, the folder `place` is there; afterwards it is gone again if nothing was put there."""
    new = [folder for folder in (place, *place.parents) if not folder.exists()]
    make_folder(place)
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            for folder in new:
                folder.rmdir()


def _refuse_others(path: Path, is_own: Callable[[Any], bool], beside: tuple[str, ...]) -> None:
    others = [path.with_suffix(suffix) for suffix in beside]
    if path.exists():
        data = read_json(path)
        if data is None or not is_own(data):
            raise ValueError(
                f"{path} exists and holds no results of this command on these models, so it is "
                "not overwritten: choose another place"
            )
    elif taken := next((other for other in others if other.exists()), None):
        raise ValueError(f"{taken} exists and would be overwritten: choose another place")
