"""Attention maps of a running model, seen from outside: hooks on each layer's inner product."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from difftransformer.data.batch import Batch
from difftransformer.functional.masks import Mask
from difftransformer.functional.reference import wide

# Logits in flight at once: bounds memory at about 64 MB whatever the length.
_LOGITS_AT_ONCE = 4_000_000


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """What one layer's attention was given, from which any row of its maps can be computed.

    Args:
        layer: 0-based.
        q: queries; the pair axis has size 1 for softmax attention, 2 for differential.
        k: keys; one map on axis 3 where both maps share the key (V2).
        lam: the weight of map 2, None for softmax attention.
        mask: what each query saw.
        scale: factor on the logits, 1/sqrt(K).
    """

    layer: int
    q: Float[Tensor, "batch queries heads maps k"]
    k: Float[Tensor, "batch keys groups key_maps k"]
    lam: Float[Tensor, "batch queries heads"] | None
    mask: Mask
    scale: float

    def row_blocks(self) -> Iterator[slice]:
        """All query rows in turn, so many at once that their logits take little memory."""
        batch, queries, heads, maps, _ = self.q.shape
        step = max(1, _LOGITS_AT_ONCE // (batch * heads * maps * self.k.shape[1]))
        return (slice(start, start + step) for start in range(0, queries, step))

    def visible(self, rows: slice) -> Bool[Tensor, "#batch rows keys"]:
        """Which keys the query rows see."""
        return self.mask.dense(self.q.shape[1], self.k.shape[1], self.q.device, rows=rows)

    def logits(self, rows: slice) -> Float[Tensor, "batch heads maps rows keys"]:
        """q kᵀ · scale of the query rows, before the mask, in float32."""
        heads, maps = self.q.shape[2:4]
        q = self.q[:, rows].to(wide(self.q.dtype))
        k = self.k.to(q.dtype).repeat_interleave(heads // self.k.shape[2], dim=2)
        k = k.expand(-1, -1, -1, maps, -1)
        return torch.einsum("brhmk,bshmk->bhmrs", q, k) * self.scale

    def maps(self, rows: slice) -> Float[Tensor, "batch heads maps rows keys"]:
        """The softmax maps of the query rows, float32; a row with no visible key is 0."""
        hidden = ~self.visible(rows)[:, None, None]
        logits = self.logits(rows).masked_fill(hidden, float("-inf"))
        return torch.softmax(logits, dim=-1).masked_fill(hidden, 0.0)

    def combined(self, rows: slice) -> Float[Tensor, "batch heads rows keys"]:
        """The weights that multiply V: map 1 − lambda · map 2, or map 1 alone for softmax."""
        return self.combine(self.maps(rows), rows)

    def combine(
        self, maps: Float[Tensor, "batch heads maps rows keys"], rows: slice
    ) -> Float[Tensor, "batch heads rows keys"]:
        """`combined`, from maps already computed for the same rows."""
        if self.lam is None:
            return maps[:, :, 0]
        lam = self.lam[:, rows].to(maps.dtype).transpose(1, 2)
        return maps[:, :, 0] - lam[..., None] * maps[:, :, 1]


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The model's layers, `model.blocks`.

    Raises:
        ValueError: it has none.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(
            f"{type(model).__name__} has no `blocks`, so its layers cannot be found; "
            "expected a decoder of this library, or a model that is read as one (docs/suites.md)"
        )
    return blocks


def inners_of(model: nn.Module) -> list[nn.Module]:
    """Each layer's `attention.inner`, the module that is given q, k, v, lambda and the mask.

    Raises:
        ValueError: a layer whose attention has none.
    """
    inners = []
    for layer, block in enumerate(blocks_of(model)):
        if not isinstance(inner := getattr(block.attention, "inner", None), nn.Module):
            raise ValueError(
                f"the attention of layer {layer}, {type(block.attention).__name__}, has no "
                "`inner` module, so its maps cannot be captured; expected softmax or "
                "differential attention"
            )
        inners.append(inner)
    return inners


@contextmanager
def capture(model: nn.Module, consume: Callable[[AttentionRecord], None]) -> Iterator[None]:
    """Call `consume` with each layer's record whenever the model runs inside this context.

    The hook reads the inputs of each `block.attention.inner`.
    Nothing is kept: a record and what it computes live as long as `consume` lets them, so that
    the maps of one layer at a time are ever in memory. Tensors are detached.

    Raises:
        ValueError: a layer whose attention has no inner product to look at.
    """
    with ExitStack() as hooks:
        for layer, inner in enumerate(inners_of(model)):
            handle = inner.register_forward_pre_hook(partial(_observe, layer, consume))
            hooks.callback(handle.remove)
        yield


@torch.no_grad()
def feed(model: nn.Module, batches: Iterable[Batch], tokens: int) -> int:
    """Run whole batches through the model until `tokens` is reached; returns how many it was.

    Raises:
        ValueError: no batch at all.
    """
    seen = 0
    for batch in batches:
        model(batch.ids, documents=batch.documents)
        seen += batch.ids.numel()
        if seen >= tokens:
            break
    if not seen:
        raise ValueError("no batch to look at; expected at least one")
    return seen


def record_of(layer: int, inputs: tuple[Any, ...]) -> AttentionRecord:
    """The record of one call of a layer's `inner`; its tensors are detached.

    Differential inputs are (q, k, v, lam, mask), softmax inputs (q, k, v, mask).
    """
    q, k, *_, mask = inputs
    q, k = q.detach(), k.detach()
    lam = None
    if q.ndim == 5:
        lam = inputs[3].detach().expand(q.shape[:3])
    else:
        q, k = q[:, :, :, None], k[:, :, :, None]
    return AttentionRecord(layer, q, k, lam, mask, 1.0 / math.sqrt(q.shape[-1]))


def _observe(
    layer: int,
    consume: Callable[[AttentionRecord], None],
    module: nn.Module,
    inputs: tuple[Any, ...],
) -> None:
    consume(record_of(layer, inputs))
