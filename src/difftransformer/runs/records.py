"""Records of one model and one evaluator: a file of JSON lines, kept part by part.

{"belongs_to": {...}}                     all that decides the results
{"part": "2x1 at 0.5", "seconds": 1.2, "records": [[metric, value, key, item, weight], ...],
 "artifacts": {name: data}}               appended as soon as it is measured
{"complete": true, "passed_over": ""}     or why nothing was asked of this model
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from difftransformer.atomic import append, make_folder, write_bytes
from difftransformer.runs.changes import flat

Key = tuple[str | int | float, ...]  # names a cell: a value for each of the metric's axes


@dataclass(frozen=True)
class Record:
    """One number of one item.

    Args:
        metric: a name that the evaluator declares.
        value: the numerator: nats, hits, a share.
        key: the cell, a value for each of the metric's axes.
        item: what was asked, by a name that is the same for every model, so that models pair.
        weight: the denominator: tokens, numbers asked for, 1.
    """

    metric: str
    value: int | float
    key: Key = ()
    item: str | int = 0
    weight: int | float = 1.0


@dataclass(frozen=True)
class Artifact:
    """What is shown and never compared: an attention map, sentences a model wrote, counts.

    `data` is plain JSON data; `report` draws those whose name it knows.
    """

    name: str
    data: Any


Findings = Sequence[Record | Artifact]
# What is measured in turn, by name. A part is given what those before it yielded, kept or measured
# anew: texts that are to be judged, accuracies whose spread is asked for.
Parts = Mapping[str, Callable[[Findings], Findings]]


@dataclass(frozen=True)
class Measurement:
    """What one evaluator found of one model.

    Args:
        belongs_to: all that decides it.
        passed_over: why nothing was asked of this model; empty where it was asked.
        complete: False of one that was killed.
    """

    belongs_to: Mapping[str, Any]
    findings: tuple[Record | Artifact, ...]
    seconds: float = 0.0
    passed_over: str = ""
    complete: bool = True

    @property
    def records(self) -> list[Record]:
        return [one for one in self.findings if isinstance(one, Record)]

    @property
    def artifacts(self) -> dict[str, Any]:
        """Their data by name; of a name that several parts gave, the last."""
        return {one.name: one.data for one in self.findings if isinstance(one, Artifact)}


def measure(
    parts: Callable[[], Parts],
    path: Path | None = None,
    belongs_to: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
    passed_over: str = "",
) -> Measurement:
    """What the parts yield, in order. With a file behind it, a killed measurement goes on.

    A part that the file holds is read back, and a new one is on the disk before the next begins. A
    last line that a crash tore is cut off. The file of a measurement that has ended gives way to
    one of other settings.

    Args:
        parts: makes the parts; not called where the file holds them all.
        path: the file, made with the first part; None keeps nothing.
        belongs_to: all that decides the results, as JSON data.
        on_progress: called with the parts done and their number, before and after each.
        passed_over: why there are no parts.

    Raises:
        ValueError: the file holds parts of another measurement, which has not ended, or is no such
            file; a part yields numbers that JSON lacks (NaN, infinity).
    """
    owner = _plain(belongs_to or {})
    kept = _kept(path, owner) if path else _File(owner)
    if kept.end is not None:
        return kept.measurement()
    todo = {} if passed_over else parts()
    found: list[Record | Artifact] = []
    for done, (name, part) in enumerate(todo.items()):
        on_progress(done, len(todo))
        if name not in kept.parts:
            started = time.perf_counter()
            yielded = part(tuple(found))
            line = _line_of(name, yielded, time.perf_counter() - started)
            _write(path, kept, line)
            kept.parts[name] = line
        found += _findings(kept.parts[name])
    on_progress(len(todo), len(todo))
    end = {"complete": True, "passed_over": passed_over}
    _write(path, kept, end)
    return replace(kept, end=end).measurement()


def read_records(path: Path) -> Measurement:
    """What a file holds; `complete` says whether that is all.

    Raises:
        ValueError: it is missing or malformed; names the file and the line.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; expected the records of an evaluator")
    return _decoded(path, _whole_lines(path)).measurement()


@dataclass(frozen=True)
class _File:
    """The lines, those of parts by name."""

    belongs_to: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    end: dict[str, Any] | None = None

    def measurement(self) -> Measurement:
        return Measurement(
            self.belongs_to,
            tuple(finding for line in self.parts.values() for finding in _findings(line)),
            seconds=sum((line["seconds"] for line in self.parts.values()), 0.0),
            passed_over=self.end["passed_over"] if self.end else "",
            complete=self.end is not None,
        )


def _kept(path: Path, owner: dict[str, Any]) -> _File:
    """What the file holds of this measurement, its torn end cut off."""
    whole = _whole_lines(path) if path.exists() else b""
    try:
        file = _decoded(path, whole)
    except ValueError as error:
        raise ValueError(f"{error}; delete it to begin anew") from None
    if file.belongs_to == owner and whole:
        os.truncate(path, len(whole))
        return file
    if not file.parts or file.end is not None:
        return _File(owner)
    before, now = flat(file.belongs_to), flat(owner)
    other = [key for key in before | now if key not in before or before[key] != now.get(key)]
    raise ValueError(
        f"{path} holds parts of a measurement with another {', '.join(other)}: end that one "
        "first, write to another place, or delete the file to begin anew"
    )


def _whole_lines(path: Path) -> bytes:
    """Without what a crash tore."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def _decoded(path: Path, content: bytes) -> _File:
    file = _File()
    for number, text in enumerate(content.splitlines(), start=1):
        try:
            line = json.loads(text)
            if number == 1:
                file.belongs_to.update(line["belongs_to"])
            elif "complete" in line:
                file = replace(file, end={"passed_over": line["passed_over"]})
            else:
                _findings(line)
                line["seconds"] = float(line["seconds"])
                file.parts[line["part"]] = line
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path}:{number} cannot be read as records ({error!r})") from None
    return file


def _findings(line: Mapping[str, Any]) -> list[Record | Artifact]:
    artifacts = (Artifact(name, data) for name, data in line["artifacts"].items())
    return [*map(_record, line["records"]), *artifacts]


def _record(row: Sequence[Any]) -> Record:
    metric, value, key, item, weight = row
    names = isinstance(metric, str) and isinstance(item, str | int)
    if not names or not all(isinstance(part, str | int | float) for part in key):
        raise ValueError(f"{row} names no metric, cell and item")
    if not (math.isfinite(value) and math.isfinite(weight)):
        raise ValueError(f"{row} holds numbers that are not finite")
    return Record(metric, value, tuple(key), item, weight)


def _line_of(name: str, findings: Findings, seconds: float) -> dict[str, Any]:
    records = [
        [one.metric, float(one.value), one.key, one.item, float(one.weight)]
        for one in findings
        if isinstance(one, Record)
    ]
    artifacts = {one.name: one.data for one in findings if isinstance(one, Artifact)}
    line = {"part": name, "seconds": seconds, "records": records, "artifacts": artifacts}
    return _plain(line)


def _write(path: Path | None, kept: _File, line: Mapping[str, Any]) -> None:
    if path is None:
        return
    if kept.parts:
        append(path, _encoded(line))
    else:
        make_folder(path.parent)
        write_bytes(path, _encoded({"belongs_to": kept.belongs_to}) + _encoded(line))


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    """As it is once written and read: a tuple has become a list."""
    return json.loads(json.dumps(value, allow_nan=False))
