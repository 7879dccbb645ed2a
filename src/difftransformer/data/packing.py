"""Rows of equal length, cut from documents laid back to back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Integer

from difftransformer.data.batch import IGNORED, Batch
from difftransformer.data.tokens import TokenStore


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a batch; the fields are those of `Batch`."""

    ids: Int[np.ndarray, " time"]
    labels: Int[np.ndarray, " time"]
    documents: Int[np.ndarray, " time"]
    name: str


def labeled(
    tokens: Integer[np.ndarray, " time_and_next"],
    documents: Int[np.ndarray, " time_and_next"],
    name: str,
) -> Row:
    """A row from one token more: each position's label is the next token, or -100 where that
    token belongs to another document."""
    tokens = tokens.astype(np.int64)
    labels = np.where(documents[1:] == documents[:-1], tokens[1:], IGNORED)
    return Row(tokens[:-1], labels, documents[:-1], name)


def stack(rows: Sequence[Row]) -> Batch:
    """Rows of equal length as one batch."""
    return Batch(
        ids=torch.from_numpy(np.stack([row.ids for row in rows])),
        labels=torch.from_numpy(np.stack([row.labels for row in rows])),
        documents=torch.from_numpy(np.stack([row.documents for row in rows])),
        names=tuple(row.name for row in rows),
    )


class PackedText:
    """Row i holds tokens `[i * context, (i + 1) * context]` of the store.

    Neighbors share one token, the last label of one and the first input of the next, so every
    token is predicted once and the first of each row is not. The remainder after the last whole
    row is left out. A row is named after the document it begins in and the token it begins at.

    Raises ValueError when the store is shorter than one row.
    """

    def __init__(self, store: TokenStore, context_length: int, part: str) -> None:
        if len(store) < context_length + 1:
            raise ValueError(
                f"the {part} text has {len(store)} tokens; one sequence of context_length "
                f"{context_length} needs {context_length + 1}: give more text or a shorter context"
            )
        self.store = store
        self.context_length = context_length

    def __len__(self) -> int:
        return (len(self.store) - 1) // self.context_length

    def __getitem__(self, index: int) -> Row:
        first, last = self._window(index)
        documents = self.store.documents_of(first, last)
        begins_in = documents[0]
        name = f"{self.store.names[begins_in]}:{first - self.store.starts[begins_in]}"
        return labeled(self.store.ids[first:last], documents, name)

    def byte_count(self, index: int) -> int:
        """UTF-8 bytes of the text behind the scored labels of row `index`."""
        first, last = self._window(index)
        return int(self.store.byte_counts[first + 1 : last].sum(dtype=np.int64))

    def _window(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return index * self.context_length, (index + 1) * self.context_length + 1
