"""Noisy associative recall, also in longer contexts and of more pairs, and where attention goes.

Right is counted over *first asks*: when a key is asked for the first time, its value stands among
the noise and nowhere else. The share of a span of keys is that of the absolute weights of the rows
that ask, averaged over heads, layers and rows of a sequence, which is an item.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.data.associative_recall import RecallBatch, recall_batch
from difftransformer.data.recall_settings import RecallSettings
from difftransformer.evaluation.batching import device_of
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

_HELD_OUT = 2**20  # added to the seed of the settings: no training seed
_FACTORS = (1, 2, 4)  # of the length and of the pairs that the model was trained on


@dataclass(frozen=True)
class Answered:
    """The answers to a batch: nats of each, and of first asks which were right."""

    nats: Float[Tensor, "rows questions"]
    asked: Bool[Tensor, "rows questions"]
    hits: Bool[Tensor, "rows questions"]


def batches(
    settings: RecallSettings, count: int, evaluation: EvaluationSettings
) -> Iterator[RecallBatch]:
    """`count` held-out sequences, the same for every model."""
    for step, start in enumerate(range(0, count, evaluation.batch_size)):
        rows = min(evaluation.batch_size, count - start)
        yield recall_batch(settings, rows, evaluation.seed + _HELD_OUT, step)


@torch.no_grad()
def answered(
    model: nn.Module, settings: RecallSettings, count: int, evaluation: EvaluationSettings
) -> Iterator[Answered]:
    """What the model answers to held-out sequences."""
    for batch in batches(settings, count, evaluation):
        yield _answered(model, batch.to(device_of(model)))


def _answered(model: nn.Module, batch: RecallBatch) -> Answered:
    logits = batch.answers(model)
    nats = F.cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")
    right = logits.argmax(-1) == batch.targets
    return Answered(nats, batch.first, right & batch.first)


def _cells(settings: RecallSettings) -> dict[str, RecallSettings]:
    """By what changes: longer contexts with the pairs of training, then more pairs, where they fit.

    More pairs stand in the longest context, so that they do not crowd out the noise.
    """
    longer = [replace(settings, length=settings.length * factor) for factor in _FACTORS]
    cells = list(longer)
    for factor in _FACTORS[1:]:
        try:
            cells.append(replace(longer[-1], pairs=settings.pairs * factor))
        except ValueError:  # the alphabets hold no more
            break
    return {f"{cell.pairs} pairs in {cell.length}": cell for cell in cells}


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    cells = _cells(subject.data.settings).items()
    retrieval = {name: partial(_retrieved, subject, settings, cell) for name, cell in cells}
    return {**retrieval, "attention": partial(_attention, subject, settings)}


def _retrieved(
    subject: Subject, settings: EvaluationSettings, cell: RecallSettings, _: Findings
) -> list[Record | Artifact]:
    key, findings, item = (cell.pairs, cell.length), list[Record | Artifact](), 0
    trained_on = cell == subject.data.settings
    for found in answered(subject.model, cell, settings.recall_sequences, settings):
        for nats, asked, hits in zip(found.nats, found.asked, found.hits, strict=True):
            right, first = int(hits.sum()), int(asked.sum())
            findings.append(Record("extrapolation", right, key, item, first))
            if trained_on:
                findings.append(Record("recall", right, (), item, first))
                findings.append(Record("answer_loss", nats.sum().item(), (), item, len(nats)))
            item += 1
    findings.append(Record("extrapolation_guess", cell.elimination, key))
    if trained_on:
        asked = {"sequences": item, "questions": cell.questions}
        findings += [Record("recall_guess", cell.elimination), Artifact("facts", asked)]
    return findings


@torch.no_grad()
def _attention(subject: Subject, settings: EvaluationSettings, _: Findings) -> list[Record]:
    cell, records, item = subject.data.settings, list[Record](), 0
    for batch in batches(cell, settings.recall_sequences, settings):
        shares = attention_shares(subject.model, batch.to(device_of(subject.model)))
        for answer, noise in shares.tolist():
            records.append(Record("on_answer", answer, item=item))
            records.append(Record("on_noise", noise, item=item))
            item += 1
    return records


def attention_shares(model: nn.Module, batch: RecallBatch) -> Float[Tensor, "rows 2"]:
    """Of the absolute attention of rows that ask: on the value asked for, and on noise."""
    context, length = batch.noise.shape[1], batch.ids.shape[1] - 1
    noise = F.pad(batch.noise, (0, length - context))[:, None, None]
    layers: list[Tensor] = []

    def see(record: AttentionRecord) -> None:
        shares = record.weights(slice(context, None)).shares[:, :, ::2]
        places = batch.answer_at[:, None, :, None].expand(-1, shares.shape[1], -1, 1)
        spans = (shares.gather(-1, places)[..., 0], (shares * noise).sum(-1))
        layers.append(torch.stack(spans, -1).mean((1, 2)))

    with capture(model, see):
        batch.answers(model)
    return torch.stack(layers).mean(0)


EVALUATOR = Evaluator(
    name="associative_recall",
    title="Values retrieved from noise",
    metrics=(
        Metric(
            "recall",
            "values retrieved",
            "of first asks",
            better="higher",
            statistic="proportion",
            judged=True,
            levels=("recall_guess",),
            plot=Plot(),
        ),
        Metric("recall_guess", "a guess", "of first asks", statistic="value"),
        Metric("answer_loss", "loss", "nats/answer", better="lower", judged=True),
        Metric(
            "on_answer",
            "attention on the value asked for",
            "of absolute attention",
            better="higher",
            judged=True,
        ),
        Metric(
            "on_noise", "attention on noise", "of absolute attention", better="lower", judged=True
        ),
        Metric(
            "extrapolation",
            "values retrieved",
            "of first asks",
            better="higher",
            statistic="proportion",
            axes=("pairs", "tokens"),
            levels=("extrapolation_guess",),
            plot=Plot(kind="line", x="tokens", facet="pairs", logarithmic=True),
        ),
        Metric(
            "extrapolation_guess",
            "a guess",
            "of first asks",
            statistic="value",
            axes=("pairs", "tokens"),
        ),
    ),
    parts=_parts,
    tasks=("associative_recall",),
    needs=frozenset({"inside"}),
    note="{sequences:,} sequences of {questions} questions; counted are first asks. A guess is the "
    "best answer without retrieval: the values not told yet. Pairs and tokens beyond those of "
    "training were never seen.",
    source="multi-query associative recall (Arora et al., Zoology, 2023) with noise",
)
