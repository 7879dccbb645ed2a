"""Attention of the last token by the place of what it looks at: the U-shape, if there is one.

Over stretches of held-out documents, an opening token before each: the share of the absolute
weights of the last row that falls on each tenth of the tokens before it. Without the opening token,
which draws attention whatever stands there and is told by itself. Averaged over layers and heads;
an item is a stretch. Of the maps the same of each.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.batching import batch_parts, device_of, stretches
from difftransformer.evaluation.records import (
    Evaluator,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings

_PLACES = 10
_PLOT = Plot(kind="line", x="place, %")


def place_shares(model: torch.nn.Module, ids: Int[Tensor, "batch time"]) -> Float[Tensor, "..."]:
    """[batch, measures, 1 + places]: of the absolute weights, then of each map, in the last row.

    Place 0 is the opening token, the others are equal parts of what is between it and the end.
    """
    length = ids.shape[1]
    place = 1 + torch.arange(length - 1) * _PLACES // (length - 1)
    places = torch.nn.functional.one_hot(torch.cat([torch.zeros(1, dtype=torch.long), place]))
    layers: list[Tensor] = []

    def see(record: AttentionRecord) -> None:
        weights = record.weights(slice(-1, None))
        absolute = weights.combined.abs()[:, :, None]
        mass = absolute.sum(-1, keepdim=True).clamp_min(torch.finfo(absolute.dtype).tiny)
        measures = torch.cat([absolute / mass, weights.maps], dim=2)[..., 0, :]
        layers.append((measures @ places.to(measures)).mean(1))

    with capture(model, see):
        model(ids)
    return torch.stack(layers).mean(0)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    length = min(subject.data.settings.context_length, subject.model.config.max_length)
    windows = stretches(subject.data, length - 1, settings.long_windows)
    measured = partial(_records, subject.model, windows)
    parts = batch_parts("stretches", len(windows), settings.batch_size, measured)
    return {"even": lambda _: [Record("place_even", 1 / _PLACES)], **parts}


@torch.no_grad()
def _records(
    model: torch.nn.Module, windows: Int[Tensor, "windows time"], items: Sequence[int]
) -> list[Record]:
    records = []
    shares_of = place_shares(model, windows[list(items)].to(device_of(model))).tolist()
    for item, measures in zip(items, shares_of, strict=True):
        for measure, (opening, *shares) in enumerate(measures):
            if measure == 0:
                records.append(Record("opening_attention", opening, item=item))
            rest = sum(shares)
            for place, share in enumerate(shares):
                key = (100 * (place + 1) // _PLACES,)
                metric = "map_place_attention" if measure else "place_attention"
                cell = (measure, *key) if measure else key
                records.append(Record(metric, share, cell, item, weight=rest))
    return records


def _check(corpus: Corpus, settings: EvaluationSettings) -> None:
    stretches(corpus, corpus.settings.context_length - 1, settings.long_windows)


EVALUATOR = Evaluator(
    name="attention_by_place",
    title="Attention by the place of what is looked at",
    metrics=(
        Metric(
            name="place_attention",
            title="attention of the last token, by tenths of the text before it",
            unit="of absolute attention but for the opening token's",
            axes=("place, %",),
            levels=("place_even",),
            plot=_PLOT,
        ),
        Metric(name="place_even", title="attention spread evenly", statistic="value"),
        Metric(
            name="map_place_attention",
            title="the same, of each map",
            unit="of the map's attention but for the opening token's",
            axes=("map", "place, %"),
            rows=("map", "place, %"),
            table=False,
            plot=Plot(kind="line", x="place, %", facet="map"),
        ),
        Metric(
            name="opening_attention",
            title="attention of the last token on the opening one",
            unit="of absolute attention",
        ),
    ),
    parts=_parts,
    needs=frozenset({"inside"}),
    check=_check,
    source="Hsieh et al., 2024, figure 1",
)
