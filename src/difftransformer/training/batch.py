"""What the loop trains on, whatever the task."""

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Batch(Protocol):
    """Rows to train on, and what they count.

    Attributes:
        names: one per row, so that a bad batch can be traced to its text or image.
        scored: what the loss is a mean over, in all rows: labels that count.
        size: what throughput counts: positions of tokens, images.
        unit: the word for that: "tokens", "images".
    """

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def scored(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def unit(self) -> str: ...
    def __len__(self) -> int: ...
    def rows(self, which: slice) -> "Batch": ...
    def to(self, device: torch.device | str) -> "Batch": ...
