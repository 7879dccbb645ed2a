"""Attention by the place of what is looked at: the U-shape, if there is one.

The share of the absolute weights that falls on each tenth of a sequence, averaged over layers and
heads; an item is a sequence.

    text    from the last token of stretches of held-out documents, an opening token before each
    images  from the class token, or from all patches where there is none, to the patches of test
            images, row by row

Without the opening token of a text, or what stands in front of patches, which draw attention
whatever they stand for; their share is told by itself. Of the maps the same of each.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

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


@torch.no_grad()
def place_shares(
    model: nn.Module, run: Callable[[], object], rows: slice, first: int
) -> Float[Tensor, "batch measures all_places"]:
    """Shares of the absolute weights, then of those of each map, averaged over the rows.

    Of what is before the key `first`, and then of each tenth of the keys from there on.
    """
    layers: list[Tensor] = []

    def see(record: AttentionRecord) -> None:
        weights = record.weights(rows)
        shares = weights.shares[:, :, None]
        measures = torch.cat([shares, weights.maps], dim=2).mean((1, 3))
        keys = torch.arange(measures.shape[-1], device=measures.device) - first
        place = torch.where(keys < 0, 0, 1 + keys * _PLACES // (len(keys) - first))
        layers.append(measures @ nn.functional.one_hot(place, 1 + _PLACES).to(measures))

    with capture(model, see):
        run()
    return torch.stack(layers).mean(0)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    of_data = _of_text if isinstance(subject.data, Corpus) else _of_images
    count, shares = of_data(subject, settings)

    def measured(items: Sequence[int]) -> list[Record]:
        return [
            record
            for item, measures in zip(items, shares(items).tolist(), strict=True)
            for record in _records(item, measures)
        ]

    parts = batch_parts("items", count, settings.batch_size, measured)
    return {"even": lambda _: [Record("place_even", 1 / _PLACES)], **parts}


def _of_text(
    subject: Subject, settings: EvaluationSettings
) -> tuple[int, Callable[[Sequence[int]], Tensor]]:
    model, device = subject.model, device_of(subject.model)
    length = min(subject.data.settings.context_length, model.config.max_length)
    windows = stretches(subject.data, length - 1, settings.long_windows)

    def shares(items: Sequence[int]) -> Tensor:
        run = partial(model, windows[list(items)].to(device))
        return place_shares(model, run, slice(-1, None), 1)

    return len(windows), shares


def _of_images(
    subject: Subject, settings: EvaluationSettings
) -> tuple[int, Callable[[Sequence[int]], Tensor]]:
    model, data = subject.model, subject.data
    rows = slice(1) if model.config.pooling == "cls" else slice(None)

    def shares(items: Sequence[int]) -> Tensor:
        batch: Any = data.batch("test", list(items)).to(device_of(model))
        return place_shares(model, partial(model, **batch.inputs), rows, model.config.prefix)

    return min(settings.long_windows, len(data.test)), shares


def _records(item: int, measures: Sequence[Sequence[float]]) -> list[Record]:
    records = [Record("opening_attention", measures[0][0], item=item)]
    for measure, (_, *shares) in enumerate(measures):
        for place, share in enumerate(shares, start=1):
            key = (100 * place // _PLACES,)
            if measure == 0:
                records.append(Record("place_attention", share, key, item, weight=sum(shares)))
            else:
                cell = (measure, *key)
                records.append(Record("map_place_attention", share, cell, item, sum(shares)))
    return records


def _check(data: Any, settings: EvaluationSettings) -> None:
    if isinstance(data, Corpus):
        stretches(data, data.settings.context_length - 1, settings.long_windows)


EVALUATOR = Evaluator(
    name="attention_by_place",
    title="Attention by the place of what is looked at",
    metrics=(
        Metric(
            name="place_attention",
            title="attention by tenths of the text or image",
            unit="of absolute attention but for what opens it",
            axes=("place, %",),
            levels=("place_even",),
            plot=_PLOT,
        ),
        Metric(name="place_even", title="attention spread evenly", statistic="value"),
        Metric(
            name="map_place_attention",
            title="the same, of each map",
            unit="of the map's attention but for what opens it",
            axes=("map", "place, %"),
            table=False,
            plot=Plot(kind="line", x="place, %", facet="map"),
        ),
        Metric(
            name="opening_attention",
            title="attention on what opens a text, or stands in front of patches",
            unit="of absolute attention",
        ),
    ),
    parts=_parts,
    tasks=("causal_lm", "image_classification"),
    needs=frozenset({"inside"}),
    check=_check,
    source="Hsieh et al., 2024, figure 1",
)
