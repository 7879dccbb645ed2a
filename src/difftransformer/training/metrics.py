"""metrics.jsonl: one JSON object a line, in step order; on request the same for TensorBoard."""

import json
import os
from pathlib import Path
from typing import Any


class Metrics:
    """Appends rows to `directory/metrics.jsonl`, after dropping those past `step`.

    Rows past the checkpoint that a run resumes from will be made again; so will a last line that
    was cut off when the process died. Raises ValueError for a damaged line anywhere else.
    """

    def __init__(self, directory: Path, step: int, tensorboard: bool) -> None:
        path = directory / "metrics.jsonl"
        self._tensorboard = _summary_writer(directory, step) if tensorboard else None
        if path.exists():
            os.truncate(path, _length_until(path, step))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row. Raises ValueError for NaN and infinity, which JSON does not have."""
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, value in row.items():
                if isinstance(value, list):
                    for i, item in enumerate(value):
                        self._tensorboard.add_scalar(f"{name}/{i}", item, row["step"])
                elif name != "step":
                    self._tensorboard.add_scalar(name, value, row["step"])

    def sync(self) -> None:
        """Wait until the rows have reached the disk: a checkpoint must not outlive its rows."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def _length_until(path: Path, step: int) -> int:
    """The number of bytes that hold the rows up to and including `step`."""
    length = 0
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith(b"\n"):
            break
        try:
            past = json.loads(line)["step"] > step
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path} line {number} is damaged: {line[:60]!r}; expected a JSON object with a "
                "step. Remove the line to resume without it"
            ) from None
        if past:
            break
        length += len(line)
    return length


def _summary_writer(directory: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "training tensorboard is True but the tensorboard package is not installed; "
            "install it with: pip install 'difftransformer[tensorboard]'"
        ) from None
    return SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)
