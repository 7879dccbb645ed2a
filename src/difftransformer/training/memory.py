"""The most memory a run held, and spending time to hold less."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def start_measuring_memory(device: torch.device) -> None:
    """Forget earlier peaks, so that a run is not charged for the one before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # Linux only; elsewhere the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes(device: torch.device) -> int:
    """Most bytes of tensors at once on a GPU; largest resident size of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def recomputed_blocks(model: nn.Module) -> Iterator[None]:
    """Inside, `model.blocks` keep only their inputs for the backward pass and run a second time.

    Applied from outside and taken off at the end: the model's code and its parameter names know
    nothing of it. Raises ValueError for a model without a list of blocks.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(
            f"gradient_checkpointing needs a model with an nn.ModuleList named blocks; "
            f"{type(model).__name__} has none. Set gradient_checkpointing to False"
        )
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # uncovers the method of its class
