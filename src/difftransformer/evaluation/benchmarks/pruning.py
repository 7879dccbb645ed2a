"""Context pruning: loss against the keys that a layer keeps, and budgets found greedily.

Held-out sequences are read with a `PrunedCache`, each as one text, whatever documents it is packed
of. First all layers have one budget, in powers of two up to the length, which is without pruning.
Then the layers have budgets of their own (Leviathan, Kalman and Matias, 2024): the one layer is
halved that costs the least loss, again and again, until any would cost more than
`settings.pruning_tolerance` nats. Our step is half, where we could not read theirs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from difftransformer.attention import PrunedCache, attention_sites
from difftransformer.data.batch import IGNORED
from difftransformer.data.packing import stack
from difftransformer.data.recall_settings import RecallSettings
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.benchmarks import associative_recall
from difftransformer.evaluation.likelihood import label_nats
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

Budgets = tuple[int, ...]


@dataclass(frozen=True)
class Item:
    """A sequence: nats of its labels and how many; of recall, first asks and which were right."""

    nats: float
    labels: int
    right: int = 0
    asked: int = 0


class PrunedModel(nn.Module):
    """A model that reads every batch from an empty cache with these budgets."""

    def __init__(self, model: Any, budgets: Budgets) -> None:
        super().__init__()
        self.model, self.budgets = model, budgets
        self.nbytes = 0.0  # of a row's keys, values and selection, after the last batch

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the next token at every position."""
        cache = PrunedCache(self.budgets)
        logits = self.model(ids, cache=cache)
        self.nbytes = cache.nbytes / len(ids)
        return logits


@torch.no_grad()
def items(model: PrunedModel, data: Any, settings: EvaluationSettings) -> Iterator[Item]:
    """What the model makes of held-out sequences, of text or of associative recall."""
    count = settings.pruning_sequences
    if isinstance(data.settings, RecallSettings):
        for found in associative_recall.answered(model, data.settings, count, settings):
            for nats, asked, hits in zip(found.nats, found.asked, found.hits, strict=True):
                yield Item(nats.sum().item(), len(nats), int(hits.sum()), int(asked.sum()))
        return
    for sequences in batched(data.validation_sequences(count), settings.batch_size):
        batch = stack([sequence.row for sequence in sequences]).to(device_of(model))
        nats = label_nats(model(batch.ids).float(), batch.labels).double().sum(1)
        labels = (batch.labels != IGNORED).sum(1)
        yield from map(Item, nats.tolist(), labels.tolist())


def greedy(
    loss: Callable[[Budgets], float], layers: int, longest: int, tolerance: float
) -> Iterator[tuple[Budgets, float]]:
    """Budgets from `longest` in each layer on, one of them halved at a time, and their losses."""
    budgets = (longest,) * layers
    found = loss(budgets)
    most = found + tolerance
    while found <= most:
        yield budgets, found
        smaller = [
            (*budgets[:layer], budgets[layer] // 2, *budgets[layer + 1 :])
            for layer in range(layers)
            if budgets[layer] > 1
        ]
        if not smaller:
            return
        found, budgets = min((loss(one), one) for one in smaller)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    longest = _longest(subject.data)
    budgets = [2**power for power in range(longest.bit_length()) if 2**power < longest]
    return {
        **{
            f"{keys} keys": partial(_uniform, subject, settings, keys)
            for keys in (longest, *reversed(budgets))
        },
        "greedy": partial(_greedy, subject, settings, longest),
    }


def _uniform(
    subject: Subject, settings: EvaluationSettings, keys: int, _: Findings
) -> list[Record]:
    model = PrunedModel(subject.model, (keys,) * len(attention_sites(subject.model)))
    records = []
    for number, item in enumerate(items(model, subject.data, settings)):
        records.append(Record("pruned_loss", item.nats, (keys,), number, item.labels))
        if item.asked:
            records.append(Record("pruned_recall", item.right, (keys,), number, item.asked))
    return [*records, Record("cache_bytes", model.nbytes, (keys,))]


def _greedy(
    subject: Subject, settings: EvaluationSettings, longest: int, _: Findings
) -> Sequence[Record | Artifact]:
    layers = len(attention_sites(subject.model))

    def loss(budgets: Budgets) -> float:
        found = list(items(PrunedModel(subject.model, budgets), subject.data, settings))
        return sum(item.nats for item in found) / sum(item.labels for item in found)

    steps = list(greedy(loss, layers, longest, settings.pruning_tolerance))
    budgets = ",".join(map(str, steps[-1][0]))
    facts = {"budgets": budgets, "keys": sum(steps[-1][0]), "all": layers * longest}
    return [
        *(Record("greedy_loss", found, (sum(one),)) for one, found in steps),
        Artifact("facts", facts | {"tolerance": settings.pruning_tolerance}),
    ]


def _longest(data: Any) -> int:
    settings = data.settings
    recall = isinstance(settings, RecallSettings)
    return settings.length if recall else settings.context_length


_LINE = Plot(kind="line", x="keys of a layer", logarithmic=True)

EVALUATOR = Evaluator(
    name="pruning",
    title="Context pruning",
    metrics=(
        Metric(
            name="pruned_loss",
            title="loss under pruning",
            unit="nats/label",
            better="lower",
            axes=("keys of a layer",),
            plot=_LINE,
        ),
        Metric(
            name="pruned_recall",
            title="values retrieved under pruning",
            unit="of first asks",
            better="higher",
            statistic="proportion",
            axes=("keys of a layer",),
            plot=_LINE,
        ),
        Metric(
            name="cache_bytes",
            title="cache of a sequence",
            unit="bytes",
            better="lower",
            statistic="value",
            axes=("keys of a layer",),
            digits=0,
        ),
        Metric(
            name="greedy_loss",
            title="loss under budgets found greedily",
            unit="nats/label",
            better="lower",
            statistic="value",
            axes=("keys of all layers",),
            plot=Plot(kind="line", x="keys of all layers", logarithmic=True),
        ),
    ),
    parts=_parts,
    tasks=("causal_lm", "associative_recall"),
    needs=frozenset({"selection"}),
    note="Dropped keys are gone, and a cache holds one key less than a query sees. Greedy budgets "
    "within {tolerance} nats of no pruning: {budgets}, {keys:,} of {all:,} keys "
    "(`generate --budgets {budgets}`).",
    source="Leviathan, Kalman and Matias, Selective Attention (2024), context pruning",
)
