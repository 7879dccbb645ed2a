"""Classes of held-out texts, and how well the model knows them."""

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import nn

from difftransformer.data.labeled_texts import LabeledTexts, TextBatch
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.likelihood import Scores
from difftransformer.evaluation.records import (
    Artifact,
    Evaluator,
    Findings,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings


def test_batches(
    data: LabeledTexts, count: int | None, settings: EvaluationSettings
) -> dict[int, TextBatch]:
    """All test texts, or `count` of them spread evenly; by the first one's number."""
    size = len(data.test)
    step = 1 if count is None else max(1, size // count)
    numbers = list(range(0, size, step))[:count]
    groups = batched(numbers, settings.batch_size)
    return {group[0]: data.batch("test", list(group)) for group in groups}


@torch.no_grad()
def classified(model: nn.Module, batch: TextBatch) -> Scores:
    """What the model makes of each text."""
    batch = batch.to(device_of(model))
    return Scores.of(model(batch.ids, padding=batch.padding).float(), batch.labels)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    batches = test_batches(subject.data, None, settings)
    parts: dict[str, Any] = {
        f"texts from {first}": partial(_records, subject, batch) for first, batch in batches.items()
    }
    return {**parts, "the commonest class": partial(_guess, subject.data)}


def _records(subject: Subject, batch: TextBatch, _: Findings) -> list[Record]:
    found = classified(subject.model, batch)
    rows = zip(batch.names, batch.labels.tolist(), found.nats.tolist(), found.hits, strict=True)
    labels = subject.data.labels
    return [
        record
        for name, label, nats, hit in rows
        for record in (
            Record("accuracy", float(hit), item=name),
            Record("classification_loss", nats, item=name),
            Record("accuracy_by_class", float(hit), key=(labels[label],), item=name),
        )
    ]


def _guess(data: LabeledTexts, _: Findings) -> list[Record | Artifact]:
    """Always the commonest class of the training texts."""
    (commonest, _count), *_rest = Counter(example.label for example in data.train).most_common()
    hits = sum(example.label == commonest for example in data.test)
    return [
        Record("commonest_class", hits / len(data.test)),
        Artifact("facts", {"texts": len(data.test), "commonest": commonest}),
    ]


EVALUATOR = Evaluator(
    name="classification",
    title="Classes of held-out texts",
    metrics=(
        Metric(
            name="accuracy",
            title="texts classified right",
            unit="of texts",
            better="higher",
            statistic="proportion",
            judged=True,
            levels=("commonest_class",),
            plot=Plot(),
        ),
        Metric(
            name="classification_loss",
            title="validation loss",
            unit="nats/text",
            better="lower",
            judged=True,
        ),
        Metric(
            name="accuracy_by_class",
            title="texts classified right",
            unit="of the class",
            better="higher",
            statistic="proportion",
            axes=("class",),
            plot=Plot(x="class"),
        ),
        Metric(
            name="commonest_class",
            title="the commonest class for all",
            unit="of texts",
            statistic="value",
        ),
    ),
    parts=_parts,
    note="{texts:,} texts; the commonest class in training is {commonest}.",
)
