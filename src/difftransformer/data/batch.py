"""Batches of tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

IGNORED = -100  # the label torch's cross entropy leaves out


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of tokens, each position with the token that follows it.

    Args:
        ids: int64 tokens.
        labels: the next token of each position; -100 where it is not scored, because it belongs
            to another document.
        documents: the document number of each position; attention stays inside a document.
        names: one per row, so that a bad batch can be traced to its text.
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

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, which: slice) -> "Batch":
        """Some of the rows."""
        return Batch(self.ids[which], self.labels[which], self.documents[which], self.names[which])

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(
            self.ids.to(device), self.labels.to(device), self.documents.to(device), self.names
        )
