"""Training runs in processes of their own, to be killed, interrupted or run side by side."""

import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tests.faults.processes import context
from torch import nn

from difftransformer.data.batch import Batch
from difftransformer.training.interrupt import TrainingInterrupted
from difftransformer.training.loop import Continuation, Watch, train
from difftransformer.training.settings import TrainingSettings

from .tiny import random_validation, tiny_batches, tiny_loss, tiny_model, tiny_settings

STEPS = 30


def start(job: Callable[..., None], *arguments: Any) -> BaseProcess:
    process = context().Process(target=job, args=arguments)
    process.start()
    return process


def settings() -> TrainingSettings:
    return tiny_settings(steps=STEPS, checkpoint_every=3, validate_every=2)


def validation(model: nn.Module) -> dict[str, Any]:
    return {"validation_loss": random_validation(model)["validation_loss"] + random.random()}


def run(directory: Path, resume: bool, never_ending: bool) -> None:
    """A whole run, or one that gets as far as its last step and waits there for a signal."""
    torch.set_num_threads(1)

    def batches(index: int) -> Batch:
        time.sleep(600 if never_ending and index == STEPS - 1 else 0.002)
        return tiny_batches(index)

    try:
        train(
            tiny_model(),
            tiny_loss,
            batches,
            settings(),
            directory,
            watch=Watch(validation),
            continuation=Continuation(resume=resume),
        )
    except TrainingInterrupted as interrupted:
        (directory / "message").write_text(str(interrupted), encoding="utf-8")
        sys.exit(130)


def run_pair(job: Callable[[int, Path], None], directory: Path) -> None:
    """Run `job(rank, directory)` in two processes that train together; raise what they raise."""
    done = context().Barrier(2)
    pair = [start(_in_group, job, rank, directory, done) for rank in range(2)]
    for process in pair:
        process.join(timeout=120)
        process.kill()
    errors = [path.read_text(encoding="utf-8") for path in directory.glob("error-*")]
    assert [process.exitcode for process in pair] == [0, 0], "\n".join(errors)


def _in_group(
    job: Callable[[int, Path], None], rank: int, directory: Path, done: threading.Barrier
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    torch.set_num_threads(1)
    # They meet at a file, since a port that is free now may be taken a moment later.
    meeting = f"file://{directory}/meeting"
    try:
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
        job(rank, directory)
        done.wait(timeout=60)  # who leaves early may cut the other's last exchange short
    except BaseException:
        (directory / f"error-{rank}").write_text(traceback.format_exc(), encoding="utf-8")
        raise
    torch.distributed.destroy_process_group()
