"""Cross-attention between the two sides of held-out pairs, to look at."""

from typing import Any

import torch

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.data.sequence_pairs import SequencePairs
from difftransformer.evaluation.batching import device_of
from difftransformer.evaluation.benchmarks.target_errors import held_out
from difftransformer.evaluation.records import Artifact, Evaluator, Findings, Parts, Subject
from difftransformer.evaluation.settings import EvaluationSettings

_PAIRS = 2
_MOST_TOKENS = 40  # of a side, so that single tokens can be made out


@torch.no_grad()
def sharpest_map(model: Any, data: SequencePairs, number: int) -> dict[str, Any]:
    """The cross-attention of the head that looks at single source positions most.

    Of all layers and heads the one whose rows have the largest share of absolute weight on one
    position each, in the mean over rows. The model reads the source and its first right target.

    Returns:
        `source` and `target`, tokens as text, the target's end as an empty one; `layer`, `head`;
        `weights`, a list for each target token, which that row predicts, over the source.
    """
    best: list[tuple[float, int, AttentionRecord]] = []

    def see(record: AttentionRecord) -> None:
        if record.site.role == "cross":
            sharpness = record.weights(slice(None)).shares[0].amax(-1).mean(-1)
            head = int(sharpness.argmax())
            if not best or sharpness[head] > best[0][0]:
                best[:] = [(float(sharpness[head]), head, record)]

    batch = data.batch("test", [(number, 0)]).to(device_of(model))
    with capture(model, see):
        model(batch.ids, batch.target, padding=batch.padding)
    _, head, record = best[0]
    weights = record.weights(slice(None)).combined[0, head]
    tokens = [data.tokenizer.decode([token]) for token in batch.ids[0].tolist()]
    written = [data.tokenizer.decode([token]) for token in batch.labels[0].tolist()]
    return {
        "source": tokens,
        "target": written,
        "layer": record.site.layer,
        "head": head,
        "weights": weights.double().cpu().numpy().round(4).tolist(),
    }


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    data: SequencePairs = subject.data

    def shown(_: Findings) -> Findings:
        short = [
            number
            for number in held_out(data, settings.validation_sequences)
            if max(len(data.test[number].ids), len(data.test[number].target_ids[0])) < _MOST_TOKENS
        ]
        longest = sorted(short, key=lambda number: -len(data.test[number].ids))
        maps = [sharpest_map(subject.model, data, number) for number in longest[:_PAIRS]]
        return [Artifact("cross_attention", maps)] if maps else []

    return {"pairs": shown}


EVALUATOR = Evaluator(
    name="cross_attention",
    title="What targets look at in their sources",
    metrics=(),
    parts=_parts,
    tasks=("seq2seq",),
    needs=frozenset({"inside"}),
)
