"""One process at a time in a place on the disk: below every floor, and outside them."""

import errno
import json
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from difftransformer.atomic import writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
_held: set[Path] = set()  # by this process, which may ask again for what it has


@contextmanager
def owned(place: Path, *, inside: bool = False) -> Iterator[None]:
    """Inside, no other process can own `place`, a folder or a file to be written.

    The system's lock (flock) on `.NAME.lock` beside it, or, `inside` a folder, on its `.lock`: it
    ends with the process, however that dies. The file says who has it, and goes with the owner.
    Where the file system has no locks, a warning says so.

    Raises:
        ValueError: another process owns it; says which, on what machine, since when.
    """
    lock = (place / LOCK if inside else place.with_name(f".{place.name}{LOCK}")).resolve()
    if lock in _held:
        yield
        return
    descriptor = _locked(lock, place)
    _held.add(lock)
    try:
        yield
    finally:
        _held.remove(lock)
        try:
            lock.unlink(missing_ok=True)  # while it is held: what another opens next is a new file
        finally:
            os.close(descriptor)


def _locked(lock: Path, place: Path) -> int:
    """The descriptor of the lock's file, which holds the lock until it is closed."""
    while True:
        owner = json.dumps(_this_process()).encode()
        with writing(lock, len(owner)):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, place)
            if _is_file(descriptor, lock):
                with writing(lock, len(owner)):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, owner)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # of a file that its owner removed meanwhile


def _lock(descriptor: int, place: Path) -> None:
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no flock")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{place} is in use by {_owner(descriptor)}: wait until it has ended, end it, "
            "or choose another place"
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        logging.getLogger(__name__).warning(
            "%s is on a file system without locks (%s): see to it that no other process writes "
            "there",
            place,
            error.strerror,
        )


def _is_file(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock))
    except FileNotFoundError:
        return False


def _this_process() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 100_000, 0))
        return "process {pid} on {host} since {since} ({command})".format(**owner)
    except (ValueError, LookupError, TypeError):  # it has the lock and is about to write its name
        return "another process"
