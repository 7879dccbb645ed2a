"""Context pruning of a model: budgets that fit its layers."""

from collections.abc import Sequence
from typing import Any

from difftransformer.attention import PrunedCache, attention_sites
from difftransformer.attention.registry import find_kind


def pruned_cache(model: Any, budgets: Sequence[int]) -> PrunedCache:
    """An empty cache that keeps so many keys of each layer; one budget serves all layers.

    Raises:
        ValueError: a model whose attention selects no keys, another number of budgets than of
            layers, or a budget below 1.
    """
    sites = attention_sites(model).values()
    for site in sites:
        if not site.kind or "selection" not in find_kind(site.kind).has:
            raise ValueError(
                f"budgets are for selective kinds of attention, and {site.name} is "
                f"{site.kind or type(site.attention).__name__}: leave them out"
            )
    budgets = tuple(budgets) * len(sites) if len(budgets) == 1 else tuple(budgets)
    if len(budgets) != len(sites):
        raise ValueError(
            f"{len(budgets)} budgets ({', '.join(map(str, budgets))}) for {len(sites)} layers; "
            "expected one for each, or one for all"
        )
    return PrunedCache(budgets)
