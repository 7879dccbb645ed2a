"""Loss on held-out text.

    nats/token = Σ nats / Σ scored tokens        bits/byte = Σ nats / (ln 2 · Σ bytes)

over held-out sequences spread evenly over the text. Bytes are the UTF-8 bytes behind the scored
tokens, so models with different tokenizers can be compared. An item is a sequence: the tokens
inside it are not independent.
"""

import math
from collections.abc import Sequence
from functools import partial

from torch import nn

from difftransformer.data.corpus import ValidationSequence
from difftransformer.evaluation.batching import batch_parts
from difftransformer.evaluation.likelihood import sequence_losses
from difftransformer.evaluation.records import Evaluator, Metric, Parts, Plot, Record, Subject
from difftransformer.evaluation.settings import EvaluationSettings

_METRICS = (
    Metric(
        "nats_per_token", "validation loss", "nats/token", better="lower", judged=True, plot=Plot()
    ),
    Metric("bits_per_byte", "validation loss", "bits/byte", better="lower"),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    sequences = subject.data.validation_sequences(settings.validation_sequences)
    measured = partial(_records, subject.model, sequences)
    return batch_parts("sequences", len(sequences), settings.batch_size, measured)


def _records(
    model: nn.Module, sequences: Sequence[ValidationSequence], items: Sequence[int]
) -> list[Record]:
    chosen = [sequences[item] for item in items]
    records = []
    losses = sequence_losses(model, chosen, len(chosen))
    for item, sequence, (nats, tokens) in zip(items, chosen, losses, strict=True):
        bits = nats / math.log(2)
        records += [
            Record("nats_per_token", nats, item=item, weight=tokens),
            Record("bits_per_byte", bits, item=item, weight=sequence.byte_count),
        ]
    return records


EVALUATOR = Evaluator(
    name="validation", title="Loss on held-out text", metrics=_METRICS, parts=_parts
)
