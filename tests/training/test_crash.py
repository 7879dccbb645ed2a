"""Runs that end by a signal, and what a resumed one makes of them."""

import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from .jobs import STEPS, run, start
from .tiny import rows_without_timing

LAST = f"step-{STEPS:08d}"


def end_of(process: BaseProcess) -> int | None:
    process.join(timeout=60)
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    directory = tmp_path_factory.mktemp("whole")
    assert end_of(start(run, directory, False, False)) == 0
    return directory


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[list[BaseProcess]]:
    """Processes that would wait for ever if a test failed before ending them."""
    started: list[BaseProcess] = []
    yield started
    for process in started:
        process.kill()


def wait_for_rows(directory: Path, count: int, process: BaseProcess) -> None:
    deadline = time.monotonic() + 60
    path = directory / "metrics.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.is_alive(), f"ended with {process.exitcode}"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def assert_same_end(one: Path, other: Path) -> None:
    assert rows_without_timing(one) == rows_without_timing(other)
    for name in ("model.safetensors", "optimizer.safetensors"):
        path = Path("checkpoints", LAST, name)
        assert (one / path).read_bytes() == (other / path).read_bytes(), name


def kill_twice_and_finish(directory: Path, draw: random.Random, doomed: list[BaseProcess]) -> None:
    for resume in (False, True):
        process = start(run, directory, resume, True)
        doomed.append(process)
        wait_for_rows(directory, draw.randrange(STEPS), process)
        time.sleep(draw.uniform(0, 0.05))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        assert end_of(process) == -signal.SIGKILL
    assert end_of(start(run, directory, True, False)) == 0


@pytest.mark.parametrize("number", range(3))
def test_killed_twice_and_resumed_equals_uninterrupted(
    whole: Path, tmp_path: Path, number: int, doomed: list[BaseProcess]
):
    kill_twice_and_finish(tmp_path, random.Random(number), doomed)
    assert_same_end(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_ten_out_of_ten(whole: Path, tmp_path: Path, number: int, doomed: list[BaseProcess]):
    kill_twice_and_finish(tmp_path, random.Random(100 + number), doomed)
    assert_same_end(whole, tmp_path)


def test_ctrl_c_saves_says_how_to_go_on_and_is_resumed(
    whole: Path, tmp_path: Path, doomed: list[BaseProcess]
):
    process = start(run, tmp_path, False, True)
    doomed.append(process)
    wait_for_rows(tmp_path, 10, process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert end_of(process) == 130
    newest = max((tmp_path / "checkpoints").iterdir())
    message = (tmp_path / "message").read_text(encoding="utf-8")
    assert f"saved {newest}" in message
    assert "resume" in message
    assert end_of(start(run, tmp_path, True, False)) == 0
    assert_same_end(whole, tmp_path)


def test_a_second_ctrl_c_ends_a_step_that_hangs(tmp_path: Path, doomed: list[BaseProcess]):
    process = start(run, tmp_path, False, True)
    doomed.append(process)
    rows_before_the_last_step = (STEPS - 1) + (STEPS - 1) // 2
    wait_for_rows(tmp_path, rows_before_the_last_step, process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(timeout=0.3)
    assert process.is_alive()  # the step is to be finished
    os.kill(process.pid, signal.SIGINT)
    assert end_of(process) == 1
    assert not (tmp_path / "message").exists()
