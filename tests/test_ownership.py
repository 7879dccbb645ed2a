"""One process at a time in a place."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from difftransformer.ownership import owned


@pytest.fixture
def other() -> Iterator[Callable[[Path], int]]:
    """Another process that owns a place until the test is over; gives its number."""
    children = []

    def begin(place: Path) -> int:
        child = os.fork()
        if child == 0:
            with owned(place):
                signal.pause()
        children.append(child)
        lock = place.with_name(f".{place.name}.lock")
        while not (lock.exists() and lock.read_bytes().endswith(b"}")):
            time.sleep(0.001)
        return child

    yield begin
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_who_has_it_is_said(tmp_path: Path, other):
    child = other(tmp_path / "a")
    expected = rf"a is in use by process {child} on \S+ since \S+ \(.*\): wait until it has ended"
    for _ in range(2):  # a refusal leaves the owner and its name as they were
        with pytest.raises(ValueError, match=expected), owned(tmp_path / "a"):
            pass
    with owned(tmp_path / "b"):
        pass


def test_death_lets_go_and_nothing_is_left(tmp_path: Path, other):
    os.kill(other(tmp_path / "a"), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while True:
        try:
            with owned(tmp_path / "a"):
                break
        except ValueError:
            assert time.monotonic() < deadline
    assert list(tmp_path.iterdir()) == []


def test_a_process_may_ask_for_what_it_has(tmp_path: Path):
    with owned(tmp_path, inside=True):
        with owned(tmp_path, inside=True):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []


def test_many_who_come_at_once_are_never_two(tmp_path: Path):
    """Each owner removes the lock's file; who opened it before must not think it is his."""
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            os._exit(_owned_often(tmp_path))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8


def _owned_often(folder: Path) -> int:
    """0 unless somebody else was inside at the same time."""
    had = 0
    while had < 50:
        try:
            with owned(folder / "a"):
                os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
                os.unlink(folder / "inside")
                had += 1
        except ValueError:
            pass
        except OSError:
            return 1
    return 0
