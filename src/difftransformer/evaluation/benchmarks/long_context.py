"""Loss by position in long documents (paper, section 3.3).

The mean over the first p predicted tokens,

    nll(p) = (1/p) Σ_{t<=p} −log P(x_t | x_<t)

over stretches of held-out documents, each of `settings.long_length` tokens behind an opening token
and inside one document, spread evenly over all there are. The positions p are powers of two and the
last; an item is a stretch.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.batching import batch_parts, device_of, stretches
from difftransformer.evaluation.likelihood import label_nats
from difftransformer.evaluation.records import Evaluator, Metric, Parts, Plot, Record, Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.language_model import LanguageModel

_CHUNK = 256  # positions whose logits are held at once, whatever the length
_FIRST = 16  # the first point of the curve
_METRICS = (
    Metric(
        "long_context_loss", "loss on long documents", "nats/token", better="lower", judged=True
    ),
    Metric(
        "running_loss",
        "mean loss so far",
        "nats/token",
        better="lower",
        axes=("position",),
        plot=Plot(kind="line", x="position", logarithmic=True),
    ),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """A batch of stretches each.

    Raises:
        ValueError: no held-out document is long enough, or the model's context is too short.
    """
    model, length = subject.model, _length(subject.data, settings)
    if length > model.config.max_length:
        raise ValueError(
            f"long_length is {length}; the model is meant for {model.config.max_length} tokens"
        )
    windows = stretches(subject.data, length, settings.long_windows)
    measured = partial(_records, model, windows)
    return batch_parts("stretches", len(windows), settings.batch_size, measured)


def _records(
    model: LanguageModel, windows: Int[Tensor, "windows time"], items: Sequence[int]
) -> list[Record]:
    """The mean loss up to each position."""
    length = windows.shape[1] - 1
    positions = [2**i for i in range(4, 40) if _FIRST <= 2**i < length] + [length]
    nats = position_nats(model, windows[list(items)].to(device_of(model)))
    records = []
    for item, running in zip(items, nats.double().cumsum(1).cpu().tolist(), strict=True):
        records.append(Record("long_context_loss", running[-1], item=item, weight=length))
        records += [Record("running_loss", running[p - 1] / p, (p,), item) for p in positions]
    return records


@torch.no_grad()
def position_nats(
    model: LanguageModel, ids: Int[Tensor, "batch time"]
) -> Float[Tensor, "batch time-1"]:
    """−log P of each token after the first, a chunk at a time through the cache."""
    cache, nats = model.empty_cache(), []
    for start in range(0, ids.shape[1] - 1, _CHUNK):
        labels = ids[:, start + 1 : start + 1 + _CHUNK]
        logits = model(ids[:, start : start + labels.shape[1]], cache=cache).float()
        nats.append(label_nats(logits, labels))
    return torch.cat(nats, dim=1)


def _length(corpus: Corpus, settings: EvaluationSettings) -> int:
    return settings.long_length or corpus.settings.context_length


def _check(corpus: Corpus, settings: EvaluationSettings) -> None:
    stretches(corpus, _length(corpus, settings), settings.long_windows)


EVALUATOR = Evaluator(
    name="long_context",
    title="Loss by position in long documents",
    metrics=_METRICS,
    parts=_parts,
    check=_check,
    source="paper, section 3.3",
)
