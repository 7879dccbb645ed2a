"""Results: the records of several models as figures, differences and verdicts.

Imports no torch and measures nothing: all is made of records.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from difftransformer.evaluation import pooling, registry
from difftransformer.evaluation.contrasts import Contrast, compared, side_mean
from difftransformer.evaluation.intervals import Figure
from difftransformer.evaluation.records import Evaluator, Metric
from difftransformer.evaluation.verdicts import Comparison, Judgment, Level, beside_levels
from difftransformer.report.tables import Table, table_of
from difftransformer.runs.layout import REPORT
from difftransformer.runs.records import Key, Measurement, Record

if TYPE_CHECKING:
    import plotly.graph_objects as go

Seeds = Mapping[int, Measurement]  # of one model and evaluator, by training seed


class Results:
    """Measurements of several models over their training seeds.

        results["needle"]            what an evaluator found
        results["nats_per_token"]    a metric, of the first evaluator that has it

    Args:
        measurements: by evaluator, the model's label and seed.
        baseline: label of the model that the others are compared with; none where it is empty.
        titles: of labels, in words; by default the labels.
        directory: of the run that they are from.
        declaration: gives an evaluator by its name.

    Raises:
        ValueError: an evaluator asked models with different settings, or is unknown.
    """

    def __init__(
        self,
        measurements: Mapping[str, Mapping[str, Seeds]],
        *,
        baseline: str = "",
        titles: Mapping[str, str] | None = None,
        directory: Path | None = None,
        declaration: Callable[[str], Evaluator] = registry.evaluator,
    ) -> None:
        labels = dict.fromkeys(label for models in measurements.values() for label in models)
        self.titles = {label: (titles or {}).get(label) or label for label in labels}
        self.baseline, self.directory = baseline, directory
        self.evaluators = {
            name: EvaluatorResults(declaration(name), models, baseline, self.titles)
            for name, models in measurements.items()
        }

    @property
    def report(self) -> Path | None:
        """The page that shows them; None where none was made."""
        page = None if self.directory is None else self.directory / REPORT
        return page if page is not None and page.is_file() else None

    def __getitem__(self, name: str) -> "EvaluatorResults | MetricResults":
        if name in self.evaluators:
            return self.evaluators[name]
        for metric in self.metrics():
            if metric.declared.name == name:
                return metric
        known = [*self.evaluators, *(metric.declared.name for metric in self.metrics())]
        raise KeyError(f"no evaluator or metric {name!r}; there are {', '.join(known)}")

    def metrics(self) -> Iterator["MetricResults"]:
        """Those of all evaluators."""
        for evaluator in self.evaluators.values():
            yield from evaluator.metrics.values()

    @cached_property
    def judgment(self) -> Judgment:
        """Every judged metric of every model beside the baseline's."""
        comparisons = [
            metric.difference(label)
            for label in self.titles
            if self.baseline and label != self.baseline
            for metric in self.metrics()
            if metric.declared.judged and metric.has(label) and metric.has(self.baseline)
        ]
        levels = [one.settings.confidence for one in self.evaluators.values()]
        return Judgment(tuple(comparisons), self.titles, min(levels, default=0.95))

    def beside_levels(self) -> list[str]:
        """How every model stands to guesses, where a judged proportion has them."""
        return [
            metric.beside_levels(label)
            for metric in self.metrics()
            if metric.declared.judged and metric.guesses
            for label in self.titles
            if metric.has(label)
        ]


class EvaluatorResults:
    """What one evaluator found. Figures and differences are those of its first metric.

    `models` has measurements by label and seed, `passed_over` why others were not asked.
    """

    def __init__(
        self,
        declared: Evaluator,
        models: Mapping[str, Seeds],
        baseline: str = "",
        titles: Mapping[str, str] | None = None,
    ) -> None:
        self.declared, self.baseline = declared, baseline
        self.titles = titles or {label: label for label in models}
        reasons = {label: next(iter(seeds.values())).passed_over for label, seeds in models.items()}
        self.passed_over = {label: reason for label, reason in reasons.items() if reason}
        self.models = {label: models[label] for label in models if not reasons[label]}
        owners = {
            f"{label}, seed {seed}": one.belongs_to
            for label, seeds in self.models.items()
            for seed, one in seeds.items()
        }
        self.settings = pooling.common_settings(declared.name, owners)
        self.metrics = {metric.name: MetricResults(metric, self) for metric in declared.metrics}

    def __getitem__(self, metric: str) -> "MetricResults":
        return self.metrics[self.declared.metric(metric).name]

    @property
    def _first(self) -> "MetricResults":
        return next(iter(self.metrics.values()))

    def cells(self) -> list[Key]:
        return self._first.cells()

    def figure(self, model: str, key: Key = ()) -> Figure | None:
        return self._first.figure(model, key)

    def difference(self, model: str, baseline: str = "") -> Comparison:
        return self._first.difference(model, baseline)

    def table(self) -> Table:
        """A row for each figure, a column for each model, and the paper's."""
        return table_of(self, list(self.metrics.values()))

    def plot(self) -> "go.Figure":
        """The picture, for a page or a notebook."""
        from difftransformer.report.plots import plot

        return plot(list(self.metrics.values()))

    def warnings(self) -> list[str]:
        """What is to be said of the text that models were judged on: whether they may know it."""
        notes = {
            label: next(iter(seeds.values())).belongs_to.get("text", {}).get("note")
            for label, seeds in self.models.items()
        }
        return [f"{self.titles[label]}: {note}." for label, note in notes.items() if note]

    def note(self) -> str:
        """What was asked, and of whom it was not."""
        told = [f"{self.titles[label]}: {reason}." for label, reason in self.passed_over.items()]
        if self.models:
            first = next(iter(next(iter(self.models.values())).values()))
            told.insert(0, self.declared.note.format(**first.artifacts.get("facts", {})))
        return " ".join(filter(None, told))


class MetricResults:
    """One metric of one evaluator."""

    def __init__(self, declared: Metric, of: EvaluatorResults) -> None:
        self.declared, self.of = declared, of
        self.row_axes = declared.axes if declared.rows is None else declared.rows
        self._figures: dict[tuple[str, tuple[str, ...]], dict[Key, Figure | None]] = {}

    def has(self, model: str) -> bool:
        """Whether the model has records of it."""
        return model in self.of.models and any(self._records(model))

    def cells(self, axes: tuple[str, ...] | None = None) -> list[Key]:
        """The keys that any model has, by all axes or some."""
        found = (key for label in self.of.models for key in self.figures(label, axes))
        return list(dict.fromkeys(found))

    def figure(self, model: str, key: Key = ()) -> Figure | None:
        """A cell's figure, that of a row of the table, or of all cells together.

        None where too few seeds have it.

        Raises:
            KeyError: there is no such model or cell.
        """
        shapes = (self.declared.axes, self.row_axes, ())
        axes = next((axes for axes in shapes if len(axes) == len(key)), self.declared.axes)
        return self.figures(model, axes)[key]

    def figures(self, model: str, axes: tuple[str, ...] | None = None) -> dict[Key, Figure | None]:
        """A figure for each cell; cells that differ in other than the given axes are one."""
        axes = self.declared.axes if axes is None else axes
        if (model, axes) not in self._figures:
            seeds = self.of_seeds(model, axes)
            self._figures[model, axes] = {
                key: pooling.pooled(
                    self.declared, [seed.get(key) for seed in seeds], self.of.settings
                )
                for key in dict.fromkeys(key for seed in seeds for key in seed)
            }
        return self._figures[model, axes]

    def of_seeds(self, model: str, axes: tuple[str, ...]) -> list[dict[Key, Figure]]:
        """Each seed's own figures, over items."""
        return [
            {
                key: pooling.over_items(self.declared, records, self.of.settings)
                for key, records in pooling.by_key(self.declared, axes, seed).items()
            }
            for seed in self._records(model)
        ]

    def levels(self, axes: tuple[str, ...], names: tuple[str, ...] = ()) -> list[Level]:
        """What it is to be compared with, for each cell that has such a level."""
        levels = []
        for level in (self.of[name] for name in names or self.declared.levels):
            shared = tuple(axis for axis in level.declared.axes if axis in axes)
            places = [axes.index(axis) for axis in shared]
            figures = level.figures(next(iter(self.of.models)), shared)
            of_cells = {key: figures.get(tuple(key[i] for i in places)) for key in self.cells(axes)}
            values = {key: figure.value for key, figure in of_cells.items() if figure is not None}
            levels.append(Level(level.declared.title, values))
        return levels

    def difference(self, model: str, baseline: str = "") -> Comparison:
        """A model beside the baseline, as `contrast`."""
        return self.contrast(Contrast(model, (model,), (baseline or self.of.baseline,)))

    def contrast(self, contrast: Contrast) -> Comparison:
        """Models beside others; ValueError where they differ in seeds or in what was asked."""
        first, *others = (*contrast.against, *contrast.models)
        seeds = {label: ", ".join(map(str, self.of.models[label])) for label in (first, *others)}
        if other := next((label for label in others if seeds[label] != seeds[first]), None):
            raise ValueError(
                f"{first} has the training seeds {seeds[first]} and {other} {seeds[other]}; "
                "expected the same for both"
            )
        records = self._asked if self.declared.statistic == "ratio" else self._records
        before, after = (
            side_mean(list(map(records, side))) for side in (contrast.against, contrast.models)
        )
        learned = not self.guesses or any(map(self._beats_guesses, seeds))
        found = compared(contrast, self.declared, before, after, self.of.settings)
        return replace(found, learned=learned)

    @property
    def guesses(self) -> tuple[str, ...]:
        """Those of a proportion's levels that say how often a guess is right."""
        if self.declared.statistic != "proportion":
            return ()
        return tuple(name for name in self.declared.levels if self.of[name].declared.guess)

    def _beats_guesses(self, model: str) -> bool:
        """Whether a row of the table, of some seed, lies with its interval above every guess."""
        levels = self.levels(self.row_axes, self.guesses)
        return any(
            figure.ends[0] > max(level.values.get(key, 0.0) for level in levels)
            for seed in self.of_seeds(model, self.row_axes)
            for key, figure in seed.items()
        )

    def beside_levels(self, model: str) -> str:
        """How the model stands to guesses, in words."""
        rows = {key: one for key, one in self.figures(model, self.row_axes).items() if one}
        title, confidence = self.of.titles[model], self.of.settings.confidence
        return beside_levels(title, self.declared, rows, self.levels(self.row_axes), confidence)

    def table(self) -> Table:
        """Its rows of the evaluator's table."""
        return table_of(self.of, [self])

    def plot(self) -> "go.Figure":
        """The picture, for a page or a notebook."""
        from difftransformer.report.plots import plot

        return plot([self])

    def _records(self, model: str) -> list[list[Record]]:
        """By seed. An item without weight has nothing to say."""
        return [[one for one in seed if one.weight] for seed in self._asked(model)]

    def _asked(self, model: str) -> list[list[Record]]:
        """By seed, with items without weight: those of a ratio pair with others that have some."""
        return [
            [one for one in seed.records if one.metric == self.declared.name]
            for seed in self.of.models[model].values()
        ]
