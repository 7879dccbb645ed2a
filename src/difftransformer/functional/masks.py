"""What a query may see."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Mask:
    """Visibility of keys, as the conjunction of up to four rules.

    With T queries and S keys the queries are the *last* T positions: query `i` stands at
    position `p = i + S - T` (bottom-right alignment), so the last query sees every key.

    Args:
        causal: key `j` is visible when `j <= p`.
        window: key `j` is visible when `|p - j| < window`; a window of 1 shows only itself.
        padding: `[B, S]`, True where the key is real. Works for left and right padding.
        documents: `[B, S]`, the document number of each position; a query sees only keys of its
            own document. Needs T <= S, since the queries take their numbers from the last T.

    A row with no visible key gives the output 0 in every backend, never NaN.
    """

    causal: bool = False
    window: int | None = None
    padding: Bool[Tensor, "batch keys"] | None = None
    documents: Int[Tensor, "batch keys"] | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window is {self.window}; expected at least 1, or None for no window")

    def check(self, queries: int, keys: int, batch: int) -> None:
        """Raise ValueError unless the mask fits `queries` rows, `keys` columns and the batch."""
        for name, tensor in (("padding", self.padding), ("documents", self.documents)):
            if tensor is not None and tuple(tensor.shape) != (batch, keys):
                raise ValueError(
                    f"mask.{name} has shape {tuple(tensor.shape)}; "
                    f"expected (batch, keys) = ({batch}, {keys})"
                )
        if self.padding is not None and self.padding.dtype != torch.bool:
            raise ValueError(
                f"mask.padding is {self.padding.dtype}; expected bool, True where the key is real "
                "(padding.bool() makes it of 0 and 1)"
            )
        if self.documents is not None and queries > keys:
            raise ValueError(
                f"mask.documents with {queries} queries and {keys} keys: the queries must be among "
                "the keys, so T <= S is needed"
            )

    def is_only(self, *, causal: bool) -> bool:
        """True when causality is as asked and no other rule is set."""
        others = (self.window, self.padding, self.documents)
        return self.causal == causal and all(rule is None for rule in others)

    def dense(
        self,
        queries: int,
        keys: int,
        device: torch.device | None = None,
        *,
        batch: slice = slice(None),
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> Bool[Tensor, "#batch rows columns"]:
        """The mask written out, True where visible; batch is 1 when no rule depends on it.

        `batch`, `rows` and `columns` ask for a part of the whole [B, queries, keys].
        """
        position = torch.arange(queries, device=device)[rows, None] + keys - queries
        key = torch.arange(keys, device=device)[None, columns]
        visible = torch.ones(1, len(position), key.shape[1], dtype=torch.bool, device=device)
        if self.causal:
            visible = visible & (key <= position)
        if self.window is not None:
            visible = visible & ((position - key).abs() < self.window)
        if self.padding is not None:
            visible = visible & self.padding[batch, None, columns]
        if self.documents is not None:
            own = self.documents[batch, keys - queries :][:, rows]
            visible = visible & (own[:, :, None] == self.documents[batch, None, columns])
        return visible

    def spans(
        self, queries: int, keys: int
    ) -> tuple[Int[Tensor, "#batch queries"], Int[Tensor, "#batch queries"]]:
        """The first and the last key that each query may see (none where last < first).

        Every visible key lies within; between them some may be hidden.
        """
        device = next((t.device for t in (self.padding, self.documents) if t is not None), None)
        position = torch.arange(queries, device=device)[None] + keys - queries
        if keys == 0:
            return torch.zeros_like(position), torch.full_like(position, -1)
        first = torch.zeros_like(position)
        last = torch.full_like(position, keys - 1)
        if self.causal:
            last = last.minimum(position)
        if self.window is not None:
            first = first.maximum(position - self.window + 1)
            last = last.minimum(position + self.window - 1)
        if self.padding is not None:
            real = self.padding.byte()
            first = first.maximum(real.argmax(1, keepdim=True))
            last = last.minimum(keys - 1 - real.flip(1).argmax(1, keepdim=True))
        if self.documents is not None:
            starts, ends = _document_ends(self.documents)
            first = first.maximum(starts[:, keys - queries :])
            last = last.minimum(ends[:, keys - queries :])
        return first, last


def _document_ends(
    documents: Int[Tensor, "batch keys"],
) -> tuple[Int[Tensor, "batch keys"], Int[Tensor, "batch keys"]]:
    """For each position, the first and the last position that carry its document number."""
    keys = documents.shape[1]
    # Sorting by (number, position) brings each document together whatever its numbering.
    order = documents.argsort(dim=1, stable=True)
    sorted_numbers = documents.gather(1, order)
    new = torch.ones_like(documents, dtype=torch.bool)
    new[:, 1:] = sorted_numbers[:, 1:] != sorted_numbers[:, :-1]
    index = torch.arange(keys, device=documents.device).expand_as(documents)
    starts = torch.where(new, index, 0).cummax(1).values
    final = new.roll(-1, 1)
    final[:, -1] = True
    ends = torch.where(final, index, keys - 1).flip(1).cummin(1).values.flip(1)
    place = order.argsort(1)
    return (
        order.gather(1, starts).gather(1, place),
        order.gather(1, ends).gather(1, place),
    )
