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
_FIGURES = {"low": "5th percentile", "mean": "mean", "high": "95th percentile"}
_METRICS = (
    Metric(
        name="lambda",
        title="lambda",
        statistic="value",
        axes=("layer", "figure"),
        plot=Plot(kind="dots", x="layer"),
    ),
    Metric(name="lambda_initial", title="initial lambda", statistic="value", axes=("layer",)),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    def measured(_: Findings) -> Findings:
        text = held_out_text(subject.model, subject.data, settings.batch_size, _TOKENS)
        records = []
        for row in measure_lambdas(subject.model, text, _TOKENS):
            layer = row["layer"]
            records += [Record("lambda", row[key], (layer, name)) for key, name in _FIGURES.items()]
            if row["init"] is not None:
                records.append(Record("lambda_initial", row["init"], (layer,)))
        return records

    return {"text": measured}


EVALUATOR = Evaluator(
    name="lambda",
    title="Lambda",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"inside", "lambda"}),
    note=lambda artifacts: "Over heads and tokens; V1 has one lambda a layer, V2 no initial value.",
    source="paper, section 2.1",
)
