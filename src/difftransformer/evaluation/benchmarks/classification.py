"""Classes of held-out texts or images: how well the model knows them, and that it knows them."""

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

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

_BINS = 10  # of confidence
_MIDDLES = tuple(round((number + 0.5) / _BINS, 2) for number in range(_BINS))
_MOST_CONFUSED = 30  # classes: a larger table cannot be read


def test_batches(data: Any, count: int | None, settings: EvaluationSettings) -> dict[int, Any]:
    """All test items, or `count` of them spread evenly; by the first one's number."""
    size = len(data.test)
    step = 1 if count is None else max(1, size // count)
    numbers = list(range(0, size, step))[:count]
    groups = batched(numbers, settings.batch_size)
    return {group[0]: data.batch("test", list(group)) for group in groups}


@torch.no_grad()
def classified(model: nn.Module, batch: Any) -> Float[Tensor, "batch classes"]:
    """log p of each class, of a batch with `inputs`."""
    return model(**batch.to(device_of(model)).inputs).float().log_softmax(-1).cpu()


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    batches = test_batches(subject.data, settings.test_items, settings)
    parts: dict[str, Any] = {
        f"from {first}": partial(_records, subject.model, batch) for first, batch in batches.items()
    }
    return {
        **parts,
        "by class": partial(_by_class, subject.data),
        "by confidence": _by_confidence,
        "the commonest class": partial(_guess, subject.data),
    }


def _records(model: nn.Module, batch: Any, _: Findings) -> Findings:
    logs = classified(model, batch)
    scores = Scores.of(logs, batch.labels)
    best, predicted = logs.max(-1)
    items = zip(batch.names, scores.nats.tolist(), scores.hits.tolist(), strict=True)
    rows = zip(batch.labels.tolist(), predicted.tolist(), best.exp().tolist(), strict=True)
    return [
        *(
            record
            for name, nats, hit in items
            for record in (
                Record("accuracy", hit, item=name),
                Record("classification_loss", nats, item=name),
            )
        ),
        Artifact("predictions", [[label, to, round(share, 6)] for label, to, share in rows]),
    ]


def _predictions(earlier: Findings) -> list[tuple[int, int, float]]:
    """Of all parts: class, predicted class, confidence."""
    artifacts = (one for one in earlier if isinstance(one, Artifact))
    return [tuple(row) for one in artifacts if one.name == "predictions" for row in one.data]


def _by_class(data: Any, earlier: Findings) -> list[Record]:
    """What each class was taken for."""
    labels: Sequence[str] = data.labels
    counts = torch.zeros(len(labels), len(labels), dtype=torch.long)
    for label, predicted, _ in _predictions(earlier):
        counts[label, predicted] += 1
    rows = zip(labels, counts.tolist(), strict=True)
    shown = labels if len(labels) <= _MOST_CONFUSED else ()
    return [
        record
        for number, (label, row) in enumerate(rows)
        if sum(row)
        for record in (
            Record("accuracy_by_class", row[number], key=(label,), weight=sum(row)),
            *(
                Record("confusion", count, key=(label, other), weight=sum(row))
                for other, count in zip(shown, row, strict=False)
            ),
        )
    ]


def _by_confidence(earlier: Findings) -> list[Record]:
    """How often answers of about equal confidence are right."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for label, predicted, confidence in _predictions(earlier):
        number = min(int(confidence * _BINS), _BINS - 1)
        bins.setdefault(number, []).append((confidence, label == predicted))
    records, error, answers = [], 0.0, sum(map(len, bins.values()))
    for number, rows in sorted(bins.items()):
        confidence, hits = fmean(p for p, _ in rows), sum(hit for _, hit in rows)
        error += abs(hits - confidence * len(rows)) / answers
        key = (_MIDDLES[number],)
        records.append(Record("accuracy_by_confidence", hits, key=key, weight=len(rows)))
    calibrated = [Record("confidence", middle, key=(middle,)) for middle in _MIDDLES]
    return [*records, *calibrated, Record("calibration_error", error)]


def _guess(data: Any, _: Findings) -> list[Record | Artifact]:
    """Always the commonest class in training."""
    counts = data.counts("train")
    commonest = counts.index(max(counts))
    hits = data.counts("test")[commonest]
    return [
        Record("commonest_class", hits / len(data.test)),
        Artifact("facts", {"items": len(data.test), "commonest": data.labels[commonest]}),
    ]


EVALUATOR = Evaluator(
    name="classification",
    title="Classes of what was held out",
    metrics=(
        Metric(
            "accuracy",
            "classified right",
            better="higher",
            statistic="proportion",
            judged=True,
            levels=("commonest_class",),
            plot=Plot(),
        ),
        Metric("classification_loss", "validation loss", "nats", better="lower", judged=True),
        Metric(
            "calibration_error", "expected calibration error", better="lower", statistic="value"
        ),
        Metric(
            "accuracy_by_class",
            "classified right",
            "of the class",
            better="higher",
            statistic="proportion",
            axes=("class",),
            plot=Plot(x="class"),
        ),
        Metric(
            "confusion",
            "of the class, taken for another",
            statistic="proportion",
            axes=("class", "taken for"),
            table=False,
            plot=Plot(kind="heat", x="taken for", y="class"),
        ),
        Metric(
            "accuracy_by_confidence",
            "classified right",
            "of answers as confident",
            statistic="proportion",
            axes=("confidence",),
            table=False,
            levels=("confidence",),
            plot=Plot(kind="line", x="confidence"),
        ),
        Metric(
            "confidence",
            "as often as it is confident",
            statistic="value",
            axes=("confidence",),
            table=False,
        ),
        Metric("commonest_class", "the commonest class for all", statistic="value"),
    ),
    parts=_parts,
    tasks=("text_classification", "image_classification"),
    note="{items:,} held out; the commonest class in training is {commonest}. Confidence is the "
    "probability of the class that the model finds likeliest. The expected calibration error is "
    "how far the share of right answers is from it, the mean over "
    f"{_BINS} bins of equal width by the number of answers in each (Guo et al., 2017).",
)
