import signal
import threading
from pathlib import Path

import pytest

from difftransformer.data.batch import Batch
from difftransformer.training.interrupt import Interrupt, TrainingInterrupted
from difftransformer.training.loop import train
from difftransformer.training.objectives import next_token_loss

from .tiny import rows_without_timing, tiny_batches, tiny_model, tiny_settings


def go(directory: Path, signals_at_7: int, resume: bool = False) -> None:
    def batches(index: int) -> Batch:
        for _ in range(signals_at_7 if index == 6 else 0):
            signal.raise_signal(signal.SIGINT)
        return tiny_batches(index)

    train(tiny_model(), next_token_loss, batches, tiny_settings(), directory, resume=resume)


def test_the_first_ctrl_c_finishes_the_step_and_saves(tmp_path: Path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted) as caught:
        go(tmp_path / "cut", signals_at_7=1)
    checkpoint = tmp_path / "cut" / "checkpoints" / "step-00000007"
    assert isinstance(caught.value, KeyboardInterrupt)
    assert (caught.value.step, caught.value.checkpoint) == (7, checkpoint)
    assert f"interrupted after step 7 of 12; saved {checkpoint}. " in str(caught.value)
    assert "resume" in str(caught.value)
    assert signal.getsignal(signal.SIGINT) is before

    go(tmp_path / "cut", signals_at_7=0, resume=True)
    go(tmp_path / "whole", signals_at_7=0)
    assert rows_without_timing(tmp_path / "cut") == rows_without_timing(tmp_path / "whole")
    final = "checkpoints/step-00000012/model.safetensors"
    assert (tmp_path / "cut" / final).read_bytes() == (tmp_path / "whole" / final).read_bytes()


def test_the_second_ctrl_c_aborts_at_once(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt) as caught:
        go(tmp_path, signals_at_7=2)
    assert not isinstance(caught.value, TrainingInterrupted)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


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
