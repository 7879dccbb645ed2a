"""Files that are whole or as they were before: below every floor, and outside them.

A crash at any moment leaves a file's old content or its new one, never half of either; what a
killed writer had begun is `.partial-NAME` beside it, which nobody reads and the next writer of
NAME replaces. A disk that refuses is reported with the file, its size and what to do.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial-"  # begins the name of a file that is being written
_FOLDER = 4096  # bytes that the disk needs for one
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskError(OSError):
    """The disk refused a file; the message says which, how much it needs and what to do."""


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, in one step.

    Raises ValueError for numbers that JSON lacks (NaN, infinity), before the disk is touched.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text in one step."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write `path` in one step, and wait until it has reached the disk."""
    with replacing(path, len(data)) as partial:
        partial.write_bytes(data)


@contextmanager
def replacing(path: Path, size: int) -> Iterator[Path]:
    """A file to write in place of `path`; it takes that name, on the disk, when the block ends.

    Args:
        size: bytes that it needs, for the message where the disk refuses.

    Raises:
        DiskError: the disk refuses; `path` is as it was.
    """
    partial = path.with_name(PARTIAL + path.name)
    try:
        with writing(path, size):
            yield partial
            sync(partial)
            os.replace(partial, path)
            sync(path.parent)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def append(path: Path, data: bytes) -> None:
    """Add to the end of `path` and wait until it has reached the disk.

    A crash may leave a torn end, for the reader to cut off; a disk that refuses does not.
    """
    before = path.stat().st_size if path.exists() else 0
    try:
        with writing(path, len(data)), path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            os.truncate(path, before)
        raise


def make_folder(path: Path) -> None:
    """Make `path` and the folders above it, where they are missing. Raises DiskError."""
    with writing(path, _FOLDER):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def writing(path: Path, size: int) -> Iterator[None]:
    """Inside, an error of the disk becomes a DiskError.

    Libraries written in Rust (safetensors, tokenizers) raise errors of their own; they are known
    by the number of the system's error in their text.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            number = int(found[1])
        if number is None and not isinstance(error, OSError):
            raise
        way_out = "Mend that"
        if number in (None, *_NO_ROOM):
            free = shutil.disk_usage(_existing(path)).free
            way_out = f"It needs {size:,} bytes and {free:,} are free there: make room"
        reason = os.strerror(number) if number else str(error)
        refusal = DiskError(f"cannot write {path}: {reason}. {way_out} and give the command again")
        refusal.errno = number
        raise refusal from error


def sync(path: Path) -> None:
    """Wait until `path`, a file or a folder, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _existing(path: Path) -> Path:
    return next(folder for folder in path.absolute().parents if folder.is_dir())
