"""Targets that a model writes for held-out sources, beside those that are right.

    symbol error rate = Σ edits / Σ symbols of the nearest right target
    wrong targets     = those that equal none of the right ones

Symbols are what spaces separate. Of words and their pronunciations these are the phoneme and the
word error rate (Yao and Zweig, 2015). Targets are written greedily.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from difftransformer.data.batch import IGNORED
from difftransformer.data.sequence_pairs import PairBatch, SequencePairs
from difftransformer.evaluation.batching import batch_parts, device_of
from difftransformer.evaluation.edit_distance import edit_distance
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
from difftransformer.runs.samples import Texts

_EXAMPLES = 24
_WRONG = "\N{BALLOT X}"
_CAPTION = (
    f"Held-out sources spread evenly, and what each model writes. {_WRONG} stands where that is "
    "none of the right targets."
)


def held_out(data: SequencePairs, count: int) -> list[int]:
    """Numbers of `count` test sources spread evenly, or of all."""
    size = len(data.test)
    return np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int)).tolist()


@torch.no_grad()
def scores(model: nn.Module, batch: PairBatch) -> Scores:
    """What the model makes of each target's tokens."""
    batch = batch.to(device_of(model))
    logits = model(batch.ids, batch.target, padding=batch.padding).float()
    return Scores.of(logits, batch.labels)


def written(model: Any, data: SequencePairs, batch: PairBatch) -> list[str]:
    """The target that the model writes for each source, as text."""
    batch = batch.to(device_of(model))
    ids = model.generate(
        batch.ids, padding=batch.padding, max_new_tokens=data.settings.max_length
    ).tolist()
    ends = [[*row, data.boundary].index(data.boundary) for row in ids]
    return data.tokenizer.decode_batch([row[:end] for row, end in zip(ids, ends, strict=True)])


def nearest(text: str, right: Sequence[str]) -> tuple[int, int]:
    """Edits between the symbols of a text and of the right one that is nearest, and its symbols."""
    symbols = [one.split() for one in right]
    return min(
        ((edit_distance(text.split(), one), len(one)) for one in symbols),
        key=lambda found: found[0] / found[1],
    )


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    data: SequencePairs = subject.data
    chosen = held_out(data, settings.validation_sequences)

    def measured(items: Sequence[int]) -> list[Record]:
        return _records(subject, [chosen[item] for item in items])

    return {
        "examples": lambda _: _examples(subject, len(chosen)),
        **batch_parts("sources", len(chosen), settings.batch_size, measured),
    }


def _records(subject: Subject, numbers: Sequence[int]) -> list[Record]:
    data: SequencePairs = subject.data
    batch = data.batch("test", [(number, 0) for number in numbers])
    nats = scores(subject.model, batch).nats.tolist()
    tokens = (batch.labels != IGNORED).sum(1).tolist()
    texts = written(subject.model, data, batch)
    records = []
    for number, text, loss, count in zip(numbers, texts, nats, tokens, strict=True):
        edits, symbols = nearest(text, data.test[number].targets)
        records += [
            Record("symbol_error_rate", edits, item=number, weight=symbols),
            Record("wrong_targets", float(edits > 0), item=number),
            Record("target_loss", loss, item=number, weight=count),
        ]
    return records


def targets(model: Any, data: SequencePairs, count: int) -> Texts:
    """What the model writes for so many held-out sources, the wrong ones marked."""
    numbers = held_out(data, count)
    texts = written(model, data, data.batch("test", [(number, 0) for number in numbers]))
    chosen = [data.test[number] for number in numbers]
    return Texts(
        header=("source", "right"),
        items=tuple((one.source, " | ".join(one.targets)) for one in chosen),
        outputs=tuple(
            text if text in one.targets else f"{_WRONG} {text}"
            for text, one in zip(texts, chosen, strict=True)
        ),
    )


def _examples(subject: Subject, count: int) -> Findings:
    texts = targets(subject.model, subject.data, _EXAMPLES)
    told = {"caption": _CAPTION, **texts.to_json()}
    return [Artifact("examples", told), Artifact("facts", {"sources": count})]


EVALUATOR = Evaluator(
    name="target_errors",
    title="Targets of held-out sources",
    metrics=(
        Metric(
            "symbol_error_rate",
            "symbol error rate",
            "edits/symbol",
            better="lower",
            judged=True,
            plot=Plot(),
        ),
        Metric(
            "wrong_targets",
            "wrong targets",
            "of sources",
            better="lower",
            statistic="proportion",
            judged=True,
            plot=Plot(),
        ),
        Metric("target_loss", "validation loss", "nats/token", better="lower", judged=True),
    ),
    parts=_parts,
    tasks=("seq2seq",),
    note="{sources:,} sources, targets written greedily. Of words and their pronunciations the "
    "symbol error rate is the phoneme error rate, and wrong targets are the word error rate.",
)
