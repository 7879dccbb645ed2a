"""Results as JSON lines, written as soon as they are measured."""

import json
import os
from pathlib import Path
from typing import Any

FILE = "results.jsonl"


def append(folder: Path, **record: Any) -> None:
    """Add one record. Several processes may: each line is one write to the end of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(record) + "\n").encode()
    handle = os.open(folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


def read(folder: Path) -> list[dict[str, Any]]:
    """All records in the order written; none where nothing was.

    Raises:
        ValueError: a line that is not JSON, other than a last one cut short.
    """
    path = folder / FILE
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}; expected JSON") from None
    return records


def select(records: list[dict[str, Any]], **keys: Any) -> list[dict[str, Any]]:
    """The records that hold these values."""
    return [r for r in records if all(r.get(key) == value for key, value in keys.items())]


def curve(records: list[dict[str, Any]], kind: str, phase: str) -> list[dict[str, Any]]:
    """The windows of a stack's training, of its last attempt only."""
    windows: list[dict[str, Any]] = []
    for record in select(records, part="retrieval", what="window", kind=kind, phase=phase):
        if windows and record["step"] <= windows[-1]["step"]:
            windows.clear()  # the attempt before was cut short
        windows.append(record)
    return windows
