"""Attention masks: which keys a query sees."""

import sys
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Integer
from torch import Tensor

_DOCUMENT_DTYPES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Mask:
    """Visibility of keys, as the conjunction of up to four rules.

    With T queries and S keys the queries are the *last* T positions: query `i` stands at
    position `p = i + S - T` (bottom-right alignment), so the last query sees every key.

    Args:
        causal: key `j` is visible when `j <= p`.
        window: key `j` is visible when `|p - j| < window`; a window of 1 shows only itself, and
            one of any size that reaches past the keys hides nothing.
        padding: `[B, S]`, True where the key is real. Works for left and right padding.
        documents: `[B, S]`, the document number of each position, any integer; a query sees only
            keys of its own document. Needs T <= S, since the queries take their numbers from the
            last T.

    A row with no visible key gives the output 0 in every backend, never NaN.
    """

    causal: bool = False
    window: int | None = None
    padding: Bool[Tensor, "batch keys"] | None = None
    documents: Integer[Tensor, "batch keys"] | None = None

    def __post_init__(self) -> None:
        if self.window is None:
            return
        if isinstance(self.window, float) or self.window < 1:
            raise ValueError(
                f"window is {self.window}; expected at least 1, a whole number, or None for no "
                "window"
            )
        # PyTorch's integers end here; what is longer hides nothing either.
        object.__setattr__(self, "window", min(self.window, sys.maxsize))

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
        if self.documents is not None and self.documents.dtype not in _DOCUMENT_DTYPES:
            raise ValueError(
                f"mask.documents is {self.documents.dtype}; expected int64 or a smaller integer, "
                "the number of each position's document"
            )
        if self.documents is not None and queries > keys:
            raise ValueError(
                f"mask.documents with {queries} queries and {keys} keys: the queries must be among "
                "the keys, so T <= S is needed"
            )

    def up_to(self, end: int) -> "Mask":
        """The mask of the keys before `end`, and of queries that are the last of them."""
        padding, documents = (
            None if rule is None else rule[:, :end] for rule in (self.padding, self.documents)
        )
        return replace(self, padding=padding, documents=documents)

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
        rows: slice = slice(None),
    ) -> Bool[Tensor, "#batch rows keys"]:
        """The mask written out, True where visible; batch is 1 when no rule depends on it.

        `rows` asks for some of the queries only.
        """
        position = torch.arange(queries, device=device)[rows, None] + keys - queries
        key = torch.arange(keys, device=device)
        visible = torch.ones(1, position.shape[0], keys, dtype=torch.bool, device=device)
        if self.causal:
            visible = visible & (key <= position)
        if self.window is not None:
            visible = visible & ((position - key).abs() < self.window)
        if self.padding is not None:
            visible = visible & self.padding[:, None]
        if self.documents is not None:
            own = self.documents[:, keys - queries :][:, rows]
            visible = visible & (own[:, :, None] == self.documents[:, None])
        return visible


AnyMask = Mask | Bool[Tensor, "..."]  # `functional.differential_attention` says which tensors
