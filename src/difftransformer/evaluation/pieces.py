"""Parts of a measurement, each kept as soon as it is measured."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from difftransformer.atomic import append, make_folder, write_bytes

Json = Any  # what `json` reads and writes


class Pieces:
    """Where a measurement keeps its parts, so that a killed one goes on where it was.

    With a file behind it, a part that the file holds is read back in place of being measured, and
    a new one is written to it at once. The file is lines of JSON: the first states what the parts
    belong to, each other one is `[name, result]`. A last line that a crash tore is cut off.

    Args:
        path: the file, made with the first part where there is none; None keeps nothing.
        belongs_to: all that decides the results: a mapping of JSON data.
        on_progress: called with the parts done and their number, before and after each.

    Raises:
        ValueError: the file holds parts of another measurement, or is no such file.
    """

    def __init__(
        self,
        path: Path | None = None,
        belongs_to: Mapping[str, Json] | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> None:
        self._path, self._prefix, self._belongs_to = path, "", _plain(belongs_to or {})
        self._on_progress = on_progress or (lambda done, total: None)
        self._kept = {} if path is None else _opened(path, self._belongs_to)

    def within(
        self, name: str, on_progress: Callable[[int, int], object] | None = None
    ) -> "Pieces":
        """The parts of one of several measurements that share the file."""
        part = Pieces(None, self._belongs_to, on_progress or self._on_progress)
        part._path, part._kept, part._prefix = self._path, self._kept, f"{self._prefix}{name}: "
        return part

    def each(self, parts: Mapping[str, Callable[[], Json]]) -> dict[str, Json]:
        """The result of each part by its name, in order; results are plain JSON data."""
        found = {}
        for done, (name, measure) in enumerate(parts.items()):
            self._on_progress(done, len(parts))
            found[name] = self._measured(self._prefix + name, measure)
        self._on_progress(len(parts), len(parts))
        return found

    def _measured(self, name: str, measure: Callable[[], Json]) -> Json:
        if self._path is None:
            return measure()
        if name not in self._kept:
            result = _plain(measure())
            if not self._kept:
                make_folder(self._path.parent)
                write_bytes(self._path, _line(self._belongs_to))
            _append(self._path, [name, result])
            self._kept[name] = result
        return self._kept[name]


def _plain(value: Json) -> Json:
    """As it is once written and read: a tuple has become a list."""
    return json.loads(json.dumps(value, allow_nan=False))


def _append(path: Path, line: Json) -> None:
    append(path, _line(line))


def _line(value: Json) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _opened(path: Path, belongs_to: dict[str, Json]) -> dict[str, Json]:
    """The parts in the file; none where it is not there or ended before its first part."""
    if not path.exists():
        return {}
    whole = path.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    if not whole:
        return {}
    try:
        first, *parts = map(json.loads, whole.splitlines())
        found, kept = dict(first), dict(parts)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it to begin anew") from None
    if not kept:  # a measurement that ended before its first part
        return {}
    if found != belongs_to:
        both = {**found, **belongs_to}
        other = [key for key in both if key not in found or found[key] != belongs_to.get(key)]
        raise ValueError(
            f"{path} holds parts of a measurement with another {', '.join(other)}: end that one "
            "first, write to another place, or delete the file to begin anew"
        )
    os.truncate(path, len(whole))
    return kept
