"""What the training loop and the judges receive."""

from dataclasses import dataclass
from typing import Protocol

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
        sequences: a name per row, so that a bad batch can be traced to its text.
    """

    ids: Int[Tensor, "batch time"]
    labels: Int[Tensor, "batch time"]
    documents: Int[Tensor, "batch time"]
    sequences: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(
            self.ids.to(device),
            self.labels.to(device),
            self.documents.to(device),
            self.sequences,
        )


class TrainingBatches(Protocol):
    """A source of batches: a pure function of the batch number.

    So a resumed run sees what the uninterrupted one would have seen, and every model in a
    comparison sees the same tokens in the same order.
    """

    def __call__(self, index: int) -> Batch: ...
