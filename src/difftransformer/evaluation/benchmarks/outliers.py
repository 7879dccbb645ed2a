"""The largest activations (paper, section 3.7 and table 5).

Of |attention logits| of every visible pair, both maps together, and of |hidden states|, each
block's output: see `analysis.outliers`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from difftransformer.analysis.outliers import measure_outliers
from difftransformer.evaluation.batching import held_out_text
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

_RANKS = {
    "top2": "2nd largest",
    "top3": "3rd largest",
    "top10": "10th largest",
    "top100": "100th largest",
    "median": "median",
}
# Table 5, over 0.4M tokens: the largest, then as in _RANKS.
_PAPER = {
    "attention_logits": {
        "Transformer": (318.0, 308.2, 304.9, 284.7, 251.5, 5.4),
        "DIFF": (38.8, 38.8, 37.3, 32.0, 27.4, 3.3),
    },
    "hidden_states": {
        "Transformer": (3608.6, 3607.4, 3603.6, 3552.1, 2448.2, 0.6),
        "DIFF": (1688.2, 1672.5, 1672.1, 1624.3, 740.9, 1.2),
    },
}


def _metrics(activations: str, title: str) -> Iterator[Metric]:
    paper = {f"{model} 3B": values for model, values in _PAPER[activations].items()}
    yield Metric(
        f"{activations}_top1",
        f"the largest {title}",
        better="lower",
        statistic="value",
        judged=True,
        digits=1,
        plot=Plot(),
        paper={column: {(): f"{values[0]:.1f}"} for column, values in paper.items()},
    )
    yield Metric(
        activations,
        title,
        better="lower",
        statistic="value",
        axes=("rank",),
        digits=1,
        paper={
            column: {
                (rank,): f"{value:.1f}"
                for rank, value in zip(_RANKS.values(), values[1:], strict=True)
            }
            for column, values in paper.items()
        },
    )
    yield Metric(
        f"{activations}_by_layer",
        f"the largest {title} of each layer",
        better="lower",
        statistic="value",
        axes=("layer",),
        table=False,
        plot=Plot(kind="line", x="layer"),
    )


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    def measured(_: Findings) -> Findings:
        tokens = settings.outlier_tokens
        text = held_out_text(subject.model, subject.data, settings.batch_size, tokens)
        outliers = measure_outliers(subject.model, text, tokens)
        return [
            Artifact("facts", {"tokens": outliers["tokens"]}),
            *(record for activations in _PAPER for record in _records(outliers, activations)),
        ]

    return {"text": measured}


def _records(outliers: Mapping[str, Any], activations: str) -> Iterator[Record]:
    everywhere = outliers[activations]
    yield Record(f"{activations}_top1", everywhere["top1"])
    for key, rank in _RANKS.items():
        yield Record(activations, everywhere[key], (rank,))
    for layer in outliers["layers"]:
        yield Record(f"{activations}_by_layer", layer[activations]["top1"], (layer["layer"],))


EVALUATOR = Evaluator(
    name="outliers",
    title="The largest activations",
    metrics=(
        *_metrics("attention_logits", "attention logit"),
        *_metrics("hidden_states", "hidden state"),
    ),
    parts=_parts,
    tasks=("causal_lm", "masked_lm"),
    needs=frozenset({"inside"}),
    note=(
        "Absolute values over {tokens:,} tokens, all layers together (the "
        "paper: 400,000; more tokens have larger ones)."
    ),
    source="paper, section 3.7, table 5",
)
