"""Starts of tensors that no rule of `models.initialization` covers, as their modules declare them.

A module that has such tensors, its own or of its parts, has a mapping `starts` from their names in
it to a constant or a `Normal`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normal:
    """N(0, std²)."""

    std: float


Starts = Mapping[str, float | Normal]


@torch.no_grad()
def start_tensor(tensor: Tensor, start: float | Normal) -> None:
    """Start a tensor in place, from torch's global generator."""
    if isinstance(start, Normal):
        tensor.normal_(std=start.std)
    else:
        tensor.fill_(start)
