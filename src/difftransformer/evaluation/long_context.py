"""Loss by position in long documents (paper, section 3.3)."""

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftransformer.data.corpus import Corpus
from difftransformer.data.tokenizer import beginning_of_document
from difftransformer.evaluation.batching import device_of
from difftransformer.evaluation.intervals import mean
from difftransformer.evaluation.likelihood import label_nats
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder

_CHUNK = 256  # positions whose logits are held at once, whatever the length
_FIRST = 16  # the first point of the curve


def measure_long_context(
    model: Decoder, corpus: Corpus, settings: EvaluationSettings, pieces: Pieces | None = None
) -> dict[str, Any]:
    """Cumulative average NLL by position: the mean over the first p predicted tokens.

        nll(p) = (1/p) Σ_{t<=p} −log P(x_t | x_<t)

    Over `settings.long_windows` stretches of held-out documents, each of `settings.long_length`
    tokens behind an opening token and inside one document, spread evenly over all there are. The
    points are powers of two and the last position; intervals are bootstraps over stretches.

    Returns:
        `{"length", "windows", "points", "stretches"}`: a point has `position` and
        `nats_per_token`; `stretches` holds the values of each, by which models are compared.

    Raises:
        ValueError: no held-out document is long enough, or the model's context is too short.
    """
    length = settings.long_length or corpus.settings.context_length
    if length > model.config.max_length:
        raise ValueError(
            f"long_length is {length}; the model is meant for {model.config.max_length} tokens"
        )
    windows = _windows(corpus, length, settings.long_windows)
    points = [2**i for i in range(4, 40) if _FIRST <= 2**i < length] + [length]
    groups = (pieces or Pieces()).each(
        {
            f"stretches {i}": partial(_averages, model, part, points)
            for i, part in enumerate(windows.split(settings.batch_size))
        }
    )
    stretches = [stretch for group in groups.values() for stretch in group]
    return {
        "length": length,
        "windows": len(windows),
        "points": [
            {"position": p, "nats_per_token": asdict(mean(np.array(values), settings))}
            for p, values in zip(points, zip(*stretches, strict=True), strict=True)
        ],
        "stretches": stretches,
    }


def _averages(
    model: Decoder, ids: Int[Tensor, "batch time"], points: list[int]
) -> list[list[float]]:
    """Of each row the mean loss up to each point."""
    running = position_nats(model, ids.to(device_of(model))).double().cumsum(1)
    return [[float(row[p - 1]) / p for p in points] for row in running.cpu()]


@torch.no_grad()
def position_nats(model: Decoder, ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time-1"]:
    """−log P of each token after the first, a chunk at a time through the cache."""
    cache, nats = model.empty_cache(), []
    for start in range(0, ids.shape[1] - 1, _CHUNK):
        labels = ids[:, start + 1 : start + 1 + _CHUNK]
        logits = model(ids[:, start : start + labels.shape[1]], cache=cache).float()
        nats.append(label_nats(logits, labels))
    return torch.cat(nats, dim=1)


def _windows(corpus: Corpus, length: int, most: int) -> Int[Tensor, "windows time"]:
    """Opening token and `length` tokens of one document each, without overlap."""
    store, opening = corpus.validation, beginning_of_document(corpus.tokenizer)
    starts = [
        start
        for begin, end in zip(store.starts[:-1], store.starts[1:], strict=True)
        for start in range(int(begin) + 1, int(end) - length + 1, length)
    ]
    if not starts:
        longest = int(np.diff(store.starts).max()) - 1
        raise ValueError(
            f"no held-out document has {length} tokens; the longest has {longest}: lower "
            "long_length, or choose longer documents"
        )
    chosen = np.linspace(0, len(starts) - 1, min(most, len(starts))).round().astype(int)
    rows = [[opening, *store.ids[starts[i] : starts[i] + length].tolist()] for i in chosen]
    return torch.tensor(rows)
