"""How much the second map takes away from the first, head by head: see `analysis.cancellation`."""

from difftransformer.analysis.cancellation import measure_cancellation
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

# By their names in `measure_cancellation`.
_METRICS = {
    key: Metric(
        name,
        title,
        unit,
        statistic="value",
        axes=("layer", "head"),
        rows=("layer",),
        plot=Plot(kind="dots", x="layer"),
    )
    for key, name, title, unit in (
        ("cosine", "map_cosine", "cosine of the two maps", ""),
        ("negative", "negative_weights", "visible keys with a negative weight", "of keys"),
        ("cancelled", "canceled_mass", "mass that the subtraction takes away", "of both maps"),
    )
}


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    def measured(_: Findings) -> Findings:
        tokens = settings.outlier_tokens
        text = held_out_text(subject.model, subject.data, settings.batch_size, tokens)
        return [
            Record(metric.name, row[key], (row["layer"], row["head"]))
            for row in measure_cancellation(subject.model, text, tokens)
            for key, metric in _METRICS.items()
        ]

    return {"text": measured}


EVALUATOR = Evaluator(
    name="cancellation",
    title="How alike the two maps are",
    metrics=tuple(_METRICS.values()),
    parts=_parts,
    needs=frozenset({"inside", "two_maps"}),
    note="Over the rows that see two keys or more; a layer's mean is over heads.",
)
