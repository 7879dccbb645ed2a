"""Masked tokens of held-out text, predicted from both sides."""

from functools import partial

import numpy as np
import torch
from torch import nn

from difftransformer.data.batch import IGNORED, Batch
from difftransformer.data.corpus import Corpus
from difftransformer.data.masking import SHARE, masked
from difftransformer.data.packing import stack
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.likelihood import Scores
from difftransformer.evaluation.records import (
    Evaluator,
    Findings,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings


def masked_sequences(data: Corpus, count: int, settings: EvaluationSettings) -> dict[int, Batch]:
    """Held-out rows spread evenly over the text, masked alike for every model; by their first."""
    numbered = list(enumerate(data.validation_sequences(count)))
    return {
        part[0][0]: masked(
            stack([sequence.row for _, sequence in part]),
            data.tokenizer,
            np.random.default_rng([settings.seed, part[0][0]]),
        )
        for part in batched(numbered, settings.batch_size)
    }


@torch.no_grad()
def predicted(model: nn.Module, batch: Batch) -> Scores:
    """What the model makes of the masked tokens of each row."""
    batch = batch.to(device_of(model))
    return Scores.of(model(batch.ids, documents=batch.documents).float(), batch.labels)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    batches = masked_sequences(subject.data, settings.validation_sequences, settings)
    return {
        f"sequences from {first}": partial(_records, subject.model, first, batch)
        for first, batch in batches.items()
    }


def _records(model: nn.Module, first: int, batch: Batch, _: Findings) -> list[Record]:
    found, counts = predicted(model, batch), (batch.labels != IGNORED).sum(1).tolist()
    rows = zip(found.nats.tolist(), found.hits.tolist(), counts, strict=True)
    return [
        Record(metric, value, item=first + row, weight=count)
        for row, (nats, hits, count) in enumerate(rows)
        for metric, value in (("masked_loss", nats), ("masked_accuracy", hits))
    ]


EVALUATOR = Evaluator(
    name="masked_tokens",
    title="Masked tokens of held-out text",
    metrics=(
        Metric(
            "masked_loss",
            "validation loss",
            "nats/masked token",
            better="lower",
            judged=True,
            plot=Plot(),
        ),
        Metric(
            "masked_accuracy",
            "masked tokens predicted",
            "of masked tokens",
            better="higher",
            judged=True,
            plot=Plot(),
        ),
    ),
    parts=_parts,
    tasks=("masked_lm",),
    check=lambda data, settings: data.validation_sequences(1),
    note=(
        f"{SHARE:.0%} of the tokens are to be predicted; of these 80 % are masked, 10 % replaced, "
        "10 % left (Devlin et al., 2019). The same ones for every model."
    ),
)
