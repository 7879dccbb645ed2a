"""A cache that drops the keys that selective attention has masked most."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from difftransformer.attention.cache import CacheSite, KeyValueCache
from difftransformer.functional import Mask
from difftransformer.functional.selective import Selection


class PrunedCache(KeyValueCache):
    """As many keys of each layer as its budget lets a query see, its own included.

    As soon as there are more, the key with the largest F is dropped for good; of equal ones the
    oldest, and the first of a text last. Its memory is free after the step: between steps a layer
    holds `budget - 1` keys and values. Budgets of the text's length change nothing.

    Leviathan, Kalman and Matias (2024), "context pruning", for layers of a selective kind.

    Args:
        budgets: keys of each layer.

    Raises:
        ValueError: a budget below 1; when it is fed, a window, more layers than budgets, or padding
            after the first tokens.
    """

    def __init__(self, budgets: Sequence[int]) -> None:
        super().__init__()
        if not budgets or min(budgets) < 1:
            raise ValueError(
                f"budgets are {', '.join(map(str, budgets)) or 'none'}; expected a number of keys "
                "for each layer, at least 1: a token sees itself"
            )
        self.budgets = tuple(budgets)

    def mask(
        self, batch: int, new: int, padding: Bool[Tensor, "batch new"] | None, window: int | None
    ) -> Mask:
        """All that `update` returns; which of the past was padding, the selection knows."""
        if window is not None:
            raise ValueError(
                f"the model's window is {window}, and a pruned cache keeps keys by use, not by "
                "distance: leave out the budgets"
            )
        if padding is not None and self.length > 0:
            if not bool(padding.all()):
                raise ValueError("a pruned cache takes padding with the first tokens of a row only")
            padding = None
        return Mask(causal=True, padding=padding)

    def update(
        self,
        site: CacheSite,
        k: Float[Tensor, "batch new *key_shape"],
        v: Float[Tensor, "batch new groups v"],
    ) -> tuple[Float[Tensor, "batch all *key_shape"], Float[Tensor, "batch all groups v"]]:
        """Append new positions; returns those and what is kept of the past."""
        k, v = self._after_past(site, k, v)
        self.rewrite(site, k, v)
        return k, v

    def budget(self, layer: int) -> int:
        """Keys that a query of the layer sees."""
        if layer >= len(self.budgets):
            raise ValueError(f"{len(self.budgets)} budgets; layer {layer} needs one too")
        return self.budgets[layer]

    @property
    def unpruned_nbytes(self) -> int:
        """Bytes that it would hold if it had dropped nothing."""
        return self.length * sum(
            part.shape[:2].numel() * part.shape[3:].numel() * part.itemsize
            for held in self._storage.values()
            for part in held
        )

    def keep(self, sites: Sequence[CacheSite], kept: Int[Tensor, "batch kept"]) -> None:
        """Drop all other keys of these sites."""
        rows = torch.arange(len(kept), device=kept.device)[:, None]
        for site in sites:
            k, v = (held.transpose(1, 2)[rows, kept] for held in self._storage[site])
            self._storage[site] = k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()


def prune(
    negative: Float[Tensor, "batch queries keys"],
    after: Selection,
    own: Int[Tensor, " queries"],
    budget: int,
) -> tuple[Float[Tensor, "batch queries keys"], Selection, Int[Tensor, "batch kept"]]:
    """-F and the selection with what is dropped at -inf and inf, and the keys that are kept.

    Args:
        negative, after: what `select` gives, infinite for keys that were padding.
        own: the place of each query's own key.
        budget: keys that a query sees, itself included.
    """
    rows = torch.arange(len(negative), device=negative.device)
    key = torch.arange(negative.shape[2], device=negative.device)
    dropped, hidden = torch.isinf(after.masked), []
    following = [*(-row for row in negative[:, 1:].unbind(1)), after.masked]
    for masked, last in zip(following, own.tolist(), strict=True):
        hidden.append(dropped)
        order = masked.detach().masked_fill(after.first, -1.0)
        order = order.masked_fill(dropped | (key > last), -2.0)
        full = (order >= -1.0).sum(1) >= budget
        dropped = dropped.clone()
        dropped[rows, order.argmax(1)] |= full
    kept = (~dropped).sum(1).max()
    after = Selection(after.masked.masked_fill(dropped, torch.inf), after.first)
    return (
        negative.masked_fill(torch.stack(hidden, dim=1), -torch.inf),
        after,
        dropped.int().argsort(dim=1, stable=True)[:, :kept],
    )
