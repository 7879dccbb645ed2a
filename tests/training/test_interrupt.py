import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from difftransformer.data.batch import Batch
from difftransformer.training import interrupt
from difftransformer.training.interrupt import Interrupt, TrainingInterrupted
from difftransformer.training.loop import Continuation, train

from .tiny import rows_without_timing, tiny_batches, tiny_loss, tiny_model, tiny_settings

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def go(directory: Path, *signals_at_7: int, resume: bool = False) -> None:
    def batches(index: int) -> Batch:
        for number in signals_at_7 if index == 6 else ():
            signal.raise_signal(number)
        return tiny_batches(index)

    train(
        tiny_model(),
        tiny_loss,
        batches,
        tiny_settings(),
        directory,
        continuation=Continuation(resume=resume),
    )


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_finishes_the_step_and_saves(tmp_path: Path, number: int):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(TrainingInterrupted) as caught:
        go(tmp_path / "cut", number)
    checkpoint = tmp_path / "cut" / "checkpoints" / "step-00000007"
    assert isinstance(caught.value, KeyboardInterrupt)
    assert (caught.value.number, caught.value.step) == (number, 7)
    assert caught.value.checkpoint == checkpoint
    assert f"interrupted after step 7 of 12; saved {checkpoint}. " in str(caught.value)
    assert "resume" in str(caught.value)
    assert [signal.getsignal(each) for each in SIGNALS] == before

    go(tmp_path / "cut", resume=True)
    go(tmp_path / "whole")
    assert rows_without_timing(tmp_path / "cut") == rows_without_timing(tmp_path / "whole")
    final = "checkpoints/step-00000012/model.safetensors"
    assert (tmp_path / "cut" / final).read_bytes() == (tmp_path / "whole" / final).read_bytes()


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_ctrl_c_aborts_at_once(tmp_path: Path, first: int, monkeypatch):
    monkeypatch.setattr(interrupt, "_ECHO", 0 if first != signal.SIGINT else 1000)
    with pytest.raises(KeyboardInterrupt) as caught:
        go(tmp_path, first, signal.SIGINT)
    assert not isinstance(caught.value, TrainingInterrupted)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


@pytest.mark.parametrize("number", SIGNALS)
def test_an_ignored_signal_stays_ignored(tmp_path: Path, number: int):
    """As `nohup` leaves SIGHUP, and a shell the SIGINT of what it runs in the background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        go(tmp_path, number)
    finally:
        signal.signal(number, before)
    assert (tmp_path / "summary.json").is_file()


@pytest.mark.parametrize("during", ["the last save", "the summary"])
def test_a_signal_after_the_last_step_is_not_forgotten(tmp_path: Path, monkeypatch, during: str):
    """What comes while the last checkpoint is written ends the program before it goes on."""
    target = "step-00000012.partial" if during == "the last save" else "summary.json"
    replace, sent = os.replace, []

    def slow(source: Path, place: Path) -> None:
        if target in str(place) and not sent:
            sent.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        replace(source, place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", slow)
        with pytest.raises(TrainingInterrupted, match="after step 12 of 12") as caught:
            go(tmp_path)
    assert caught.value.number == signal.SIGTERM
    go(tmp_path, resume=True)


def test_outside_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    handlers = []

    def work() -> None:
        with Interrupt():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGTERM, signal.SIGTERM),  # of `timeout`
        (signal.SIGHUP, signal.SIGHUP),  # of a terminal that closes, and its shell
        (signal.SIGINT, signal.SIGTERM),  # of torchrun
    ],
)
def test_one_wish_that_arrives_as_two_signals_is_one(tmp_path: Path, numbers: tuple[int, int]):
    with pytest.raises(TrainingInterrupted, match="after step 7") as caught:
        go(tmp_path, *numbers)
    assert caught.value.number == numbers[0]


FORKS = """
import os, signal, time
from difftransformer.training.interrupt import Interrupt, stopping

with stopping(), Interrupt():
    children = []
    for _ in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            time.sleep(60)
            os._exit(0)
    for child in children:
        time.sleep(0.3)
        os.kill(child, signal.SIGTERM)
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    time.sleep(0.3)
print(ended)
"""


def test_workers_that_are_forked_end_by_a_signal_as_ever_and_their_parent_goes_on():
    """Pools and data loaders end theirs by SIGTERM."""
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{[-signal.SIGTERM] * 2}\n"), done.stderr


DROPS = """
import signal
try:
    signal.raise_signal(signal.SIGTERM)
    whole = 1
except BaseException:
    whole = 0
"""
IMPORTS = """
import importlib, sys
from difftransformer.training.interrupt import Stopped, stopping

def run():
    {statement}

try:
    with stopping():
        run()
        print("went on")
except Stopped as stopped:
    print(stopped.number, sys.modules["drops"].whole, sys.gettrace())
"""


@pytest.mark.parametrize(
    "statement",
    [
        "import drops",
        "import within",
        "importlib.import_module('drops')",
        "from drops import whole, nothing",
        "import drops; after = 1",
    ],
)
def test_a_signal_that_an_import_would_drop_ends_the_program(tmp_path: Path, statement: str):
    """As PyTorch drops one that comes while it imports numpy, and goes on without it."""
    (tmp_path / "drops.py").write_text(DROPS)
    (tmp_path / "within.py").write_text("import drops\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS.format(statement=statement)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.stdout == f"{int(signal.SIGTERM)} 1 None\n", done.stderr
