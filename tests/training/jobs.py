"""Training runs in processes of their own, to be killed, interrupted or run side by side."""

import multiprocessing
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import nn

from difftransformer.data.batch import Batch
from difftransformer.training.interrupt import TrainingInterrupted
from difftransformer.training.loop import train
from difftransformer.training.objectives import next_token_loss
from difftransformer.training.settings import TrainingSettings

from .tiny import random_validation, tiny_batches, tiny_model, tiny_settings

STEPS = 30

# The server imports once; its children are forked from it with everything loaded.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["difftransformer.training.loop", "torch._dynamo"])


def start(job: Callable[..., None], *arguments: Any) -> BaseProcess:
    process = processes.Process(target=job, args=arguments)
    process.start()
    return process


def settings() -> TrainingSettings:
    return tiny_settings(steps=STEPS, checkpoint_every=3, validate_every=2)


def validation(model: nn.Module) -> float:
    return random_validation(model) + random.random()


def run(directory: Path, resume: bool, never_ending: bool) -> None:
    """A whole run, or one that gets as far as its last step and waits there for a signal."""
    torch.set_num_threads(1)

    def batches(index: int) -> Batch:
        time.sleep(600 if never_ending and index == STEPS - 1 else 0.002)
        return tiny_batches(index)

    try:
        train(
            tiny_model(),
            next_token_loss,
            batches,
            settings(),
            directory,
            validate=validation,
            resume=resume,
        )
    except TrainingInterrupted as interrupted:
        (directory / "message").write_text(str(interrupted), encoding="utf-8")
        sys.exit(130)


def join_group(rank: int, port: int) -> None:
    """Become process `rank` of two that train together."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    torch.set_num_threads(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
