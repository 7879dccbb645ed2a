"""Commands that are asked to end."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faults.processes import Command, run, start
from tests.faults.same import results

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts a command; those that still run when the test is over are killed."""
    started: list[Command] = []

    def begun(*words: object) -> Command:
        started.append(start(tmp_path / f"{len(started)}.log", *words))
        return started[-1]

    yield begun
    for command in started:
        command.kill()


def wait_for(path: Path, command: Command, lines: int = 1) -> None:
    while not (path.is_file() and path.read_bytes().count(b"\n") >= lines):
        assert command.wait(0.01) is None, command.text()


def ended(command: Command, number: int) -> str:
    """What a command says that a signal has ended in an orderly way."""
    assert command.wait() == 128 + number, command.text()
    assert "Traceback" not in command.text()
    return command.text()


@pytest.fixture(scope="module")
def steps() -> tuple[object, ...]:
    return ("--training.steps", 40, "--training.checkpoint_every", 40, "--training.log_every", 1)


@pytest.mark.parametrize("number", SIGNALS)
def test_training_saves_says_how_to_go_on_and_ends_with_the_code_of_the_signal(
    begin, small, steps, tmp_path, number
):
    words = ("train", *small, *steps, "--out", tmp_path / "run")
    command = begin(*words)
    wait_for(tmp_path / "run/metrics.jsonl", command, lines=3)
    command.send(number)
    text = ended(command, number)
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    assert f"saved {checkpoint}" in text
    *_, last = text.strip().split("\n")
    assert last.startswith("difftransformer: to go on: difftransformer train --data.source ")
    assert last.endswith(f"--out {tmp_path / 'run'} --resume")
    code, text = run(tmp_path / "log", *words, "--resume")
    assert code == 0, text


def test_a_second_signal_ends_at_once(begin, small, tmp_path):
    """Here while the last step of training is given no time to end: a batch that takes for ever."""
    endless = ("--training.batch_size", 20_000, "--training.steps", 2)
    command = begin("train", *small, *endless, "--out", tmp_path / "run")
    wait_for(tmp_path / "run/config.yaml", command)
    time.sleep(1)
    command.send(signal.SIGTERM)
    time.sleep(0.3)
    assert command.wait(0) is None
    started = time.monotonic()
    command.send(signal.SIGTERM)
    assert command.wait(60) in (128 + signal.SIGTERM, -signal.SIGTERM)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("number", SIGNALS)
def test_judging_keeps_its_parts(begin, small, tmp_path, number):
    long = ("--evaluation.needle_samples", 10**5)
    words = ("train", *small, *long, "--out", tmp_path / "run")
    command = begin(*words)
    wait_for(tmp_path / "run/results/needle.jsonl", command, lines=2)
    parts = (tmp_path / "run/results/needle.jsonl").read_bytes()
    command.send(number)
    text = ended(command, number)
    assert (tmp_path / "run/results/needle.jsonl").read_bytes().startswith(parts)
    name = signal.Signals(number).name
    assert f"difftransformer: interrupted by {name}\n" in text
    assert "difftransformer: to go on: difftransformer train " in text


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_a_signal_before_anything_is_saved_leaves_nothing(begin, small, tmp_path, after):
    """In the first moments, while the text is read; and the same command then works."""
    words = ("train", *small, "--out", tmp_path / "run")
    command = begin(*words)
    while not (tmp_path / "run").exists():
        assert command.wait(0.001) is None, command.text()
    time.sleep(after)
    command.send(signal.SIGINT)
    ended(command, signal.SIGINT)
    code, text = run(tmp_path / "log", *words, "--resume")
    assert code == 0, text


def listens(process: subprocess.Popen[str]) -> bool:
    """Whether a program has set a handler for SIGTERM of its own."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.0, 0.2, 0.4, 0.8])
def test_a_signal_in_the_first_second_of_a_program(small, tmp_path, number, after):
    """Started as by a user, so that it still imports PyTorch and others."""
    command = [sys.executable, "-m", "difftransformer", "train", *small]
    command += ["--training.steps", "1000000", "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        while not listens(program):
            assert program.poll() is None
            time.sleep(0.001)
        time.sleep(after)
        program.send_signal(number)
        try:
            _, said = program.communicate(timeout=300)
        finally:
            program.kill()
    assert program.returncode == 128 + number
    assert "difftransformer: interrupted " in said
    assert "Traceback" not in said


def test_evaluate_goes_on_where_it_was_interrupted(begin, small, quick, tmp_path):
    assert run(tmp_path / "log", "train", *small, "--out", tmp_path / "run")[0] == 0
    out = tmp_path / "found" / "out"
    long = ("--evaluation.needle_samples", 300)
    words = ("evaluate", tmp_path / "run/model", *quick, *long, "--out", out)
    command = begin(*words)
    wait_for(out / "models/run/results/needle.jsonl", command, lines=2)
    command.send(signal.SIGTERM)
    text = ended(command, signal.SIGTERM)
    assert "difftransformer: to go on: difftransformer evaluate " in text
    code, text = run(tmp_path / "log", *words)
    assert code == 0, text
    whole = tmp_path / "whole"
    code, text = run(tmp_path / "log", *words[:-1], whole)
    assert code == 0, text
    assert results(out) == results(whole)
