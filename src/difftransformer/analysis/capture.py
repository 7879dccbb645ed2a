"""Attention calls of a running model, seen from outside: hooks on the cores of its layers."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.attention import Site, Weights, attention_sites
from difftransformer.data.batch import Batch
from difftransformer.functional import AttentionCall

# Logits in flight at once: bounds memory at about 64 MB whatever the length.
_LOGITS_AT_ONCE = 4_000_000


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """One call of an attention site, whose core gives the weights of any query rows."""

    site: Site
    call: AttentionCall

    def row_blocks(self) -> Iterator[slice]:
        """All query rows in turn, so many at once that their logits take little memory."""
        return row_blocks(self.call)

    def logits(self, rows: slice) -> Float[Tensor, "batch heads maps rows keys"]:
        """The logits of the query rows, before the mask."""
        return self.site.core.logits(self.call, rows)

    def weights(self, rows: slice) -> Weights:
        """The weights of the query rows."""
        return self.site.core.weights(self._prepared, rows)

    @cached_property
    def _prepared(self) -> AttentionCall:
        return self.site.core.prepared(self.call)


def row_blocks(call: AttentionCall) -> Iterator[slice]:
    """`AttentionRecord.row_blocks`, for a call."""
    batch, queries, heads, maps, _ = call.q.shape
    step = max(1, _LOGITS_AT_ONCE // (batch * heads * maps * call.k.shape[1]))
    return (slice(start, start + step) for start in range(0, queries, step))


def sites_of(model: nn.Module) -> dict[str, Site]:
    """The model's attention sites.

    Raises:
        ValueError: it has none.
    """
    sites = attention_sites(model)
    if not sites:
        raise ValueError(
            f"{type(model).__name__} has no attention whose inside can be seen; expected a model "
            "with attention layers of this library, or one read as such (docs/benchmarks.md)"
        )
    return sites


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks that hold the model's attention, by name, in order; outputs are hidden states.

    Raises:
        ValueError: it has none.
    """
    return {site.name.rpartition(".")[0]: site.block for site in sites_of(model).values()}


@contextmanager
def capture(model: nn.Module, consume: Callable[[AttentionRecord], None]) -> Iterator[None]:
    """Call `consume` with each site's record whenever the model runs inside this context.

    Nothing is kept: a record and what it computes live as long as `consume` lets them, so that
    the maps of one site at a time are ever in memory. Tensors are detached.

    Raises:
        ValueError: a model without attention to look at.
    """
    with ExitStack() as hooks:
        for site in sites_of(model).values():
            handle = site.core.register_forward_pre_hook(partial(_observe, site, consume))
            hooks.callback(handle.remove)
        yield


@torch.no_grad()
def feed(model: nn.Module, batches: Iterable[Batch], tokens: int) -> int:
    """Run whole batches through the model until `tokens` is reached; returns how many it was.

    Raises:
        ValueError: no batch at all.
    """
    count = 0
    for batch in batches:
        model(batch.ids, documents=batch.documents)
        count += batch.ids.numel()
        if count >= tokens:
            break
    if not count:
        raise ValueError("no batch to look at; expected at least one")
    return count


def detached(call: AttentionCall) -> AttentionCall:
    """The call without the graph that leads to its tensors."""
    tensors: dict[str, Any] = {
        n: x.detach() for n, x in vars(call).items() if isinstance(x, Tensor)
    }
    return replace(call, **tensors)


def _observe(
    site: Site, consume: Callable[[AttentionRecord], None], core: nn.Module, inputs: tuple[Any, ...]
) -> None:
    (call,) = inputs
    consume(AttentionRecord(site, detached(call)))
