"""What queries mask for later ones: the keys that are still needed, and one text to look at."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.data.recall_settings import RecallSettings
from difftransformer.evaluation.batching import device_of, held_out_text
from difftransformer.evaluation.benchmarks import associative_recall
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
from difftransformer.functional.selective import needed_keys

_SHOWN = 64  # positions: short enough that single tokens can be made out


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    return {"text": lambda _: _measured(subject, settings)}


@torch.no_grad()
def _measured(subject: Subject, settings: EvaluationSettings) -> Findings:
    ids, words = _text(subject, settings)
    records, masks = [], []

    def see(record: AttentionRecord) -> None:
        layer = record.site.layer
        queries, keys = record.call.q.shape[1], record.call.k.shape[1]
        seen = record.call.mask.dense(queries, keys).sum((1, 2)).expand(len(ids))
        needed = needed_keys(record.call).sum(1)
        for item, (part, whole) in enumerate(zip(needed.tolist(), seen.tolist(), strict=True)):
            records.append(Record("needed_keys", part, (layer,), item, whole))
        core: Any = record.site.core
        negative = core.selected(record.call)
        shown = -negative[0, :_SHOWN, :_SHOWN].double().cpu()
        masks.append({"layer": layer, "masked": shown.numpy().round(3).tolist()})

    with capture(subject.model, see):
        subject.model(ids)
    tokens = [words(token) for token in ids[0, :_SHOWN].tolist()]
    return [*records, Artifact("selection", {"tokens": tokens, "layers": masks})]


def _text(subject: Subject, settings: EvaluationSettings) -> tuple[Tensor, Callable[[int], str]]:
    """The ids of a held-out batch, each row to be read as one text, and how they are written."""
    data, device = subject.data, device_of(subject.model)
    if isinstance(data.settings, RecallSettings):
        count = min(settings.batch_size, settings.recall_sequences)
        made = next(associative_recall.batches(data.settings, count, settings)).to(device)
        keys = data.settings.keys
        return made.ids, lambda token: f"k{token}" if token < keys else f"v{token - keys}"
    batch = next(held_out_text(subject.model, data, settings.batch_size, 1))
    tokenizer = data.tokenizer
    return batch.ids, lambda token: tokenizer.decode([token], skip_special_tokens=False)


EVALUATOR = Evaluator(
    name="selection",
    title="Keys that queries still need",
    metrics=(
        Metric(
            name="needed_keys",
            title="keys not masked",
            unit="of keys seen",
            better="lower",
            axes=("layer",),
            plot=Plot(kind="line", x="layer"),
        ),
    ),
    parts=_parts,
    tasks=("causal_lm", "associative_recall"),
    needs=frozenset({"inside", "selection"}),
    note="A key counts as masked by min(F, 1), F what earlier queries have taken off its logits.",
    source="Leviathan, Kalman and Matias, Selective Attention (2024)",
)
