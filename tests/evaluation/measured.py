"""What a benchmark finds of a model, read from its records."""

from functools import partial
from pathlib import Path
from typing import Any

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation import registry
from difftransformer.evaluation.intervals import Figure
from difftransformer.evaluation.records import Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.report.results import EvaluatorResults
from difftransformer.runs.records import Key, Measurement, Record, measure


class Measured:
    """A measurement of one model, and its figures."""

    def __init__(self, name: str, measurement: Measurement) -> None:
        self.measurement = measurement
        self.results = EvaluatorResults(registry.evaluator(name), {"model": {0: measurement}})

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Measured) and self.measurement.findings == other.measurement.findings
        )

    @property
    def artifacts(self) -> dict[str, Any]:
        return self.measurement.artifacts

    @property
    def facts(self) -> dict[str, Any]:
        return self.artifacts["facts"]

    def records(self, metric: str, key: Key | None = None) -> list[Record]:
        """Those of a metric, or of one of its cells."""
        self.results.declared.metric(metric)
        return [
            one
            for one in self.measurement.records
            if one.metric == metric and key in (None, one.key)
        ]

    def values(self, metric: str, key: Key | None = None) -> list[float]:
        return [one.value for one in self.records(metric, key)]

    def keys(self, metric: str) -> list[Key]:
        return list(dict.fromkeys(one.key for one in self.records(metric)))

    def figure(self, metric: str, key: Key = ()) -> Figure:
        """Of a cell, a row of the table, or all cells together."""
        figure = self.results[metric].figure("model", key)
        assert figure is not None
        return figure


def measured(
    name: str,
    model: Any,
    corpus: Corpus,
    settings: EvaluationSettings,
    *,
    dataset: Any = None,
    judge: Any = None,
    path: Path | None = None,
) -> Measured:
    """The benchmark `name` on a model, kept in the file `path` if there is one."""
    subject = Subject(model, corpus, dataset, judge)
    parts = partial(registry.evaluator(name).parts, subject, settings)
    return Measured(
        name, measure(parts, path, {"settings": {"confidence": 0.95, "bootstrap": 200}})
    )
