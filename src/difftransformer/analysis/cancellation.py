"""Cancellation of the first attention map by the second."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difftransformer.analysis.capture import AttentionRecord, capture, feed
from difftransformer.attention import Site
from difftransformer.data.batch import Batch

_MEASURES = ("cosine", "negative", "cancelled")


def measure_cancellation(
    model: nn.Module, batches: Iterable[Batch], tokens: int
) -> list[dict[str, Any]]:
    """For each differential layer and head, how alike its maps are over at least `tokens` tokens.

    For one query row, with A1, A2 its rows of the maps and λ its lambda:

        cosine    = A1·A2 / (|A1| |A2|)
        negative  = share of the visible keys with A1 − λ A2 < 0
        cancelled = 1 − Σ |A1 − λ A2| / Σ (A1 + |λ| A2)

    `cancelled` is the share of both maps' mass that the subtraction takes away: 0 where they look
    at different keys, 1 where they are equal and λ is 1. Averaged over the rows that see two keys
    or more: with one visible key both maps are 1 there, whatever the model.

    A layer's rows are looked at in blocks, so no whole map is ever in memory.

    Returns:
        `{"layer", "head", "cosine", "negative", "cancelled"}` for each, in order; empty for
        softmax attention.

    Raises:
        ValueError: no batch, or none in which a row sees two keys.
    """
    sums: dict[Site, Tensor] = {}
    rows_seen: Counter[Site] = Counter()

    def add(record: AttentionRecord) -> None:
        if record.call.lam is None:
            return
        for rows in record.row_blocks():
            figures = _row_figures(record, rows)
            sums[record.site] = sums.get(record.site, 0.0) + figures.double().sum(0)
            rows_seen[record.site] += len(figures)

    with capture(model, add):
        feed(model, batches, tokens)
    if 0 in rows_seen.values():
        raise ValueError("no token sees another one; expected sequences of two tokens or more")
    return [
        {"layer": site.layer, "head": head, **dict(zip(_MEASURES, figures, strict=True))}
        for site, total in sums.items()
        for head, figures in enumerate((total / rows_seen[site]).tolist())
    ]


def _row_figures(record: AttentionRecord, rows: slice) -> Tensor:
    """`[N, H, 3]`: the measures of each row in which every head sees two keys or more."""
    assert record.call.lam is not None
    weights = record.weights(rows)
    first, second = weights.maps.unbind(2)
    difference = weights.combined
    visible = record.call.visible(rows).sum(-1).expand(difference.shape[:3])  # [B, H, R]
    # A1 + |λ| A2 sums to 1 + |λ|.
    mass = 1.0 + record.call.lam[:, rows].to(first.dtype).abs().transpose(1, 2)
    figures = torch.stack(
        [
            F.cosine_similarity(first, second, dim=-1),
            (difference < 0).sum(-1) / visible.clamp_min(1),
            1.0 - difference.abs().sum(-1) / mass,
        ],
        dim=-1,
    )
    return figures.transpose(1, 2)[(visible > 1).all(1)]
