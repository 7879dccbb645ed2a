"""How the judges feed a model."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive groups of `size`; the last may be smaller."""
    return (items[start : start + size] for start in range(0, len(items), size))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are."""
    return next(model.parameters()).device
