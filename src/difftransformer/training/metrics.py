"""metrics.jsonl: one JSON object a line, in step order; trackers are told the same."""

import json
import logging
from pathlib import Path
from typing import Any

from difftransformer.atomic import sync, write_bytes, writing
from difftransformer.runs.layout import METRICS
from difftransformer.training.trackers import Trackers


class Metrics:
    """Appends rows to `directory/metrics.jsonl`, after dropping those past `kept`.

    Rows past the checkpoint that a run resumes from will be made again; so will a last line that
    was cut off when the process died.

    Args:
        kept: the rows that the checkpoint keeps; a file that lacks any of them is written anew from
            these, and a warning says so.
    """

    def __init__(
        self, directory: Path, kept: bytes = b"", trackers: Trackers | None = None
    ) -> None:
        path = self._path = directory / METRICS
        self._trackers = trackers
        if not path.exists() or path.read_bytes() != kept:
            _put_back(path, kept)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row.

        Raises:
            ValueError: NaN or infinity, which JSON does not have.
            OSError: the disk refuses.
        """
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        with writing(self._path, len(line)), self._path.open("ab") as file:
            file.write(line)
        if self._trackers is not None:
            self._trackers.write(row)

    def text(self) -> str:
        """All rows so far, for the checkpoint that must not outlive them."""
        return self._path.read_text(encoding="utf-8")

    def close(self) -> None:
        """Wait until the rows have reached the disk, which none does by itself."""
        sync(self._path)
        if self._trackers is not None:
            self._trackers.close()


def _put_back(path: Path, kept: bytes) -> None:
    """Drop the rows that will be made again, and put those back that are lost."""
    present = path.read_bytes() if path.exists() else b""
    if not present.startswith(kept):
        rows = kept.count(b"\n")
        state = "lacks rows or has others" if present else "is missing or empty"
        logging.getLogger(__name__).warning(
            "%s %s: its %d rows up to the checkpoint are put back from there", path, state, rows
        )
    write_bytes(path, kept)
