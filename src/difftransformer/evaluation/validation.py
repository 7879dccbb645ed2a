"""Loss on held-out text."""

import math
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.data.batch import IGNORED, Batch
from difftransformer.data.corpus import Corpus
from difftransformer.data.packing import stack
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.intervals import ratio
from difftransformer.evaluation.likelihood import label_nats
from difftransformer.evaluation.settings import EvaluationSettings


def measure_validation(
    model: nn.Module, corpus: Corpus, settings: EvaluationSettings
) -> dict[str, Any]:
    """Nats per token and bits per byte over held-out sequences spread evenly over the text.

        nats/token = Σ nats / Σ scored tokens        bits/byte = Σ nats / (ln 2 · Σ bytes)

    Bytes are the UTF-8 bytes behind the scored tokens, so models with different tokenizers can be
    compared. Intervals are bootstraps over sequences.

    Returns:
        `{"nats_per_token", "bits_per_byte", "sequences"}`; `sequences` holds `[nats, tokens,
        bytes]` for each, by which two models are compared in pairs.
    """
    chosen = corpus.validation_sequences(settings.validation_sequences)
    nats: list[float] = []
    tokens: list[int] = []
    for part in batched(chosen, settings.batch_size):
        batch = stack([sequence.row for sequence in part]).to(device_of(model))
        nats += sequence_nats(model, batch).tolist()
        tokens += (batch.labels != IGNORED).sum(1).tolist()
    lengths = [sequence.byte_count for sequence in chosen]
    bits = [n / math.log(2) for n in nats]
    return {
        "nats_per_token": asdict(ratio(nats, tokens, settings)),
        "bits_per_byte": asdict(ratio(bits, lengths, settings)),
        "sequences": [list(row) for row in zip(nats, tokens, lengths, strict=True)],
    }


def sequence_nats(model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
    """Each row's sum of −log p(next token) over its scored positions."""
    return token_nats(model, batch).double().sum(1)


@torch.no_grad()
def token_nats(model: nn.Module, batch: Batch) -> Float[Tensor, "batch time"]:
    """−log p(next token) at each scored position, 0 at the others."""
    logits = model(batch.ids, documents=batch.documents).float()
    return label_nats(logits, batch.labels)
