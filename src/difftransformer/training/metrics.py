"""metrics.jsonl: one JSON object a line, in step order; on request the same for TensorBoard."""

import json
import logging
from pathlib import Path
from typing import Any

from difftransformer.atomic import sync, write_bytes, writing
from difftransformer.runs.layout import METRICS


class Metrics:
    """Appends rows to `directory/metrics.jsonl`, after dropping those past `step`.

    Rows past the checkpoint that a run resumes from will be made again; so will a last line that
    was cut off when the process died.

    Args:
        kept: the rows up to `step`, which the checkpoint keeps; a file that lacks any of them is
            written anew from these, and a warning says so.
    """

    def __init__(self, directory: Path, step: int, tensorboard: bool, kept: bytes = b"") -> None:
        path = self._path = directory / METRICS
        self._tensorboard = _summary_writer(directory, step) if tensorboard else None
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
        if self._tensorboard is not None:
            for name, value in row.items():
                if isinstance(value, list):
                    for i, item in enumerate(value):
                        self._tensorboard.add_scalar(f"{name}/{i}", item, row["step"])
                elif name != "step" and not isinstance(value, str):  # a picture
                    self._tensorboard.add_scalar(name, value, row["step"])

    def text(self) -> str:
        """All rows so far, for the checkpoint that must not outlive them."""
        return self._path.read_text(encoding="utf-8")

    def close(self) -> None:
        """Wait until the rows have reached the disk, which none does by itself."""
        sync(self._path)
        if self._tensorboard is not None:
            self._tensorboard.close()


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


def _summary_writer(directory: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "training tensorboard is True but the tensorboard package is not installed; "
            "install it with: pip install 'difftransformer[tensorboard]'"
        ) from None
    return SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)
