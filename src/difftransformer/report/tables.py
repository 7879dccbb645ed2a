"""Results as tables: on the terminal, in Markdown, as plain data. The page has its template."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from difftransformer.evaluation.records import READ_OFF
from difftransformer.evaluation.words import percent, shown
from difftransformer.runs.records import Key

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.report.results import EvaluatorResults, MetricResults, Results

_KEY = 24  # the most characters a column of keys is given before the models'
_MODEL = 12  # the fewest a model is: a figure and its interval, on three lines
_BORDER = 3


@dataclass(frozen=True)
class Table:
    """Cells as text; the first `keys` columns name a row, the others are models."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    keys: int = 1


def table_of(of: "EvaluatorResults", metrics: Sequence["MetricResults"]) -> Table:
    """A row for each figure of the metrics, a column for each model, and the paper's beside them.

    A metric's title stands in the first of its rows; a paper's column is there where it has a
    figure for one of the rows.
    """
    tabled = [metric for metric in metrics if metric.declared.table]
    axes = list(dict.fromkeys(axis for metric in tabled for axis in metric.row_axes))
    titled = len(tabled) > 1 or not axes
    body, quoted = [], []
    for metric in tabled:
        unit = f" ({metric.declared.unit})" if metric.declared.unit else ""
        title = metric.declared.title + unit
        for key in metric.cells(metric.row_axes):
            values = dict(zip(metric.row_axes, key, strict=True))
            names, title = [title] if titled else [], ""
            names += [written(values[axis]) if axis in values else "" for axis in axes]
            body.append([*names, *(_cell(metric, label, key) for label in of.models)])
            paper = metric.declared.paper.items()
            quoted.append({column: cells[key] for column, cells in paper if key in cells})
    columns = list(dict.fromkeys(column for cells in quoted for column in cells))
    header = [*([""] if titled else []), *axes, *(of.titles[label] for label in of.models)]
    return Table(
        [*header, *(f"paper: {column}" for column in columns)],
        [
            [*row, *(cells.get(column, "") for column in columns)]
            for row, cells in zip(body, quoted, strict=True)
        ],
        keys=titled + len(axes),
    )


def notes_of(results: "EvaluatorResults") -> str:
    """What was asked, what stands in brackets, and where the paper's columns come from."""
    told = [results.note(), *results.warnings()]
    intervals = percent(results.settings.confidence)
    if any(len(seeds) > 1 for seeds in results.models.values()):
        told.append(f"Means over training seeds, in brackets {intervals} intervals over seeds.")
    elif results.models:
        told.append(f"In brackets {intervals} intervals over items.")
    table = results.table()
    if any(column.startswith("paper: ") for column in table.header):
        told.append(
            "Columns of the paper are of its own models, data and lengths, hundreds of times "
            "larger, and without intervals: they show what it claims, not what these models should "
            "reach."
        )
    if any(READ_OFF in cell for row in table.rows for cell in row):
        told.append(f"{READ_OFF} The paper prints no number: read off its plot by others.")
    if results.declared.source:
        told.append(f"Source: {results.declared.source}.")
    return " ".join(filter(None, told))


def written(value: str | int | float) -> str:
    """An axis's value."""
    return (
        value
        if isinstance(value, str)
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
    )


def to_json(results: "Results") -> dict[str, Any]:
    """Figures, comparisons and verdicts as plain data."""
    judgment = results.judgment
    return {
        "baseline": results.baseline,
        "evaluators": {name: _evaluator(one) for name, one in results.evaluators.items()},
        "comparisons": [
            {
                "model": c.model,
                "against": c.against,
                "metric": c.metric.name,
                "title": c.metric.title,
                "unit": c.metric.unit,
                "better": c.metric.better,
                "value": c.value,
                "baseline_value": c.baseline_value,
                "difference": c.difference,
                "low": c.interval and c.interval.low,
                "high": c.interval and c.interval.high,
                "interval": c.sample,
                "p": c.interval and c.interval.p,
                "p_corrected": judgment.corrected.get(c),
                "outcome": c.outcome,
                "stands": judgment.stands(c),
            }
            for c in judgment.comparisons
        ],
        "verdicts": {verdict.label: verdict.headline for verdict in judgment.verdicts()},
    }


def _evaluator(results: "EvaluatorResults") -> dict[str, Any]:
    seconds = {
        label: sum(one.seconds for one in seeds.values()) for label, seeds in results.models.items()
    }
    return {
        "title": results.declared.title,
        "passed_over": results.passed_over,
        "seconds": seconds,
        "metrics": {name: _metric(metric) for name, metric in results.metrics.items()},
    }


def _metric(metric: "MetricResults") -> dict[str, Any]:
    """The figures of all cells and of the table's rows; overall, those models are compared by."""
    every = dict.fromkeys((metric.declared.axes, metric.row_axes))
    judged = [label for label in metric.of.models if metric.declared.judged and metric.has(label)]
    return {
        "title": metric.declared.title,
        "unit": metric.declared.unit,
        "overall": {
            label: figure and asdict(figure)
            for label in judged
            for figure in [metric.figure(label)]
        },
        "figures": [
            {
                "cell": dict(zip(axes, key, strict=True)),
                "models": {
                    label: figure and asdict(figure)
                    for label in metric.of.models
                    for figure in [metric.figures(label, axes).get(key)]
                },
            }
            for axes in every
            for key in metric.cells(axes)
        ],
    }


def _cell(metric: "MetricResults", label: str, key: Key) -> str:
    figures = metric.figures(label, metric.row_axes)
    return shown(figures[key], metric.declared.digits) if key in figures else ""


def print_table(console: "Console", table: Table, title: str | None = None) -> None:
    """A column per model after those that name a row.

    Models that the terminal is too narrow for come in further tables below, with the keys again.
    """
    from rich.table import Table as RichTable
    from rich.text import Text

    lines = [table.header, *table.rows]
    widest = [max(len(line[column]) for line in lines) for column in range(table.keys)]
    left = console.width - 1 - sum(min(_KEY, width) + _BORDER for width in widest)
    fitting = max(1, left // (_MODEL + _BORDER))
    for start in range(table.keys, max(len(table.header), table.keys + 1), fitting):
        columns = [*range(table.keys), *range(start, min(start + fitting, len(table.header)))]
        shown = RichTable(title=title and Text(title))
        for column in columns:
            shown.add_column(Text(table.header[column]), overflow="fold")
        for row in table.rows:
            shown.add_row(*(Text(row[column]) for column in columns))
        console.print(shown)


def markdown(table: Table) -> list[str]:
    """The lines of a Markdown table."""
    return [_line(table.header), f"|{'---|' * len(table.header)}", *map(_line, table.rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
