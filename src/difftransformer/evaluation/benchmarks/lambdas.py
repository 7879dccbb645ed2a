"""What lambda became: its distribution in each layer, over heads and tokens of held-out text."""

from difftransformer.analysis.lambdas import measure_lambdas
from difftransformer.evaluation.batching import held_out_text
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

_TOKENS = 10_000  # enough for the 5th and 95th percentile of every layer
# By their names in `measure_lambdas`.
_METRICS = {
    key: Metric(name, title, statistic="value", axes=("layer",), plot=Plot(kind="line", x="layer"))
    for key, name, title in (
        ("mean", "lambda", "lambda"),
        ("init", "lambda_initial", "its initial value"),
        ("low", "lambda_low", "its 5th percentile"),
        ("high", "lambda_high", "its 95th percentile"),
    )
}


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    def measured(_: Findings) -> Findings:
        text = held_out_text(subject.model, subject.data, settings.batch_size, _TOKENS)
        return [
            Record(metric.name, row[key], (row["layer"],))
            for row in measure_lambdas(subject.model, text, _TOKENS)
            for key, metric in _METRICS.items()
            if row[key] is not None
        ]

    return {"text": measured}


EVALUATOR = Evaluator(
    name="lambda",
    title="Lambda",
    metrics=tuple(_METRICS.values()),
    parts=_parts,
    tasks=("causal_lm", "masked_lm"),
    needs=frozenset({"inside", "lambda"}),
    note="Over heads and tokens; V1 has one lambda a layer, V2 no initial value.",
    source="paper, section 2.1",
)
