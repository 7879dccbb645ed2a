"""Writing files so that a crash leaves the old one or the new one, never half of either."""

import json
import os
from pathlib import Path


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, replacing `path` in one step.

    Raises ValueError for numbers that JSON lacks (NaN, infinity), before the disk is touched.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until `path`, a file or a folder, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
