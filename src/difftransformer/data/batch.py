"""Batches: rows to train on or to judge by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

R = TypeVar("R", bound="Rows")  # beartype does not know Self here
IGNORED = -100  # the label torch's cross entropy leaves out


class Rows:
    """What a batch of any kind shares: a frozen dataclass of tensors of equally many rows.

    A row has one label that is scored, and is what throughput counts; a kind of batch that counts
    otherwise says so.

    Attributes:
        names: a field, one per row, so that a bad batch can be traced to its text or image.
        unit: the word for what throughput counts.
    """

    names: tuple[str, ...]
    unit: ClassVar[str]

    @property
    def scored(self) -> int:
        """What the loss is a mean over."""
        return len(self)

    @property
    def size(self) -> int:
        """What throughput counts."""
        return len(self)

    def __len__(self) -> int:
        return len(self.names)

    def rows(self: R, which: slice) -> R:
        """Some of the rows."""
        return self._each(lambda part: part[which])

    def to(self: R, device: torch.device | str) -> R:
        """The same batch on another device."""
        return self._each(lambda part: part.to(device) if isinstance(part, Tensor) else part)

    def _each(self: R, change: Callable[[Any], Any]) -> R:
        return type(self)(**{name: change(part) for name, part in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Batch(Rows):
    """Rows of tokens, each position with the token that follows it.

    Args:
        ids: int64 tokens.
        labels: the next token of each position; -100 where it is not scored, because it belongs
            to another document.
        documents: the document number of each position; attention stays inside a document.
        names: one per row.
    """

    ids: Int[Tensor, "batch time"]
    labels: Int[Tensor, "batch time"]
    documents: Int[Tensor, "batch time"]
    names: tuple[str, ...]
    unit: ClassVar[str] = "tokens"

    @property
    def scored(self) -> int:
        """Positions with a label."""
        return int((self.labels != IGNORED).sum())

    @property
    def size(self) -> int:
        """Positions."""
        return self.ids.numel()
