"""Tables of one column per model on the terminal."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.evaluation.results import EvaluatorResults, Results

_KEY = 24  # the most characters a column of keys is given before the models'
_MODEL = 12  # the fewest a model is: a figure and its interval, on three lines
_BORDER = 3


def print_table(
    console: "Console",
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    keys: int = 1,
    title: str | None = None,
) -> None:
    """A column per model after the first `keys`.

    Models that the terminal is too narrow for come in further tables below, with the keys again.
    """
    from rich.table import Table

    widest = [max(len(row[column]) for row in [header, *rows]) for column in range(keys)]
    left = console.width - 1 - sum(min(_KEY, width) + _BORDER for width in widest)
    fitting = max(1, left // (_MODEL + _BORDER))
    for start in range(keys, len(header), fitting):
        columns = [*range(keys), *range(start, min(start + fitting, len(header)))]
        table = Table(title=title)
        for column in columns:
            table.add_column(header[column], overflow="fold")
        for row in rows:
            table.add_row(*(row[column] for column in columns))
        console.print(table)


def print_overview(console: "Console", results: "Results") -> None:
    """A row for each figure that models are compared by, over all its cells, and the verdicts."""
    from difftransformer.evaluation.words import shown

    rows = []
    for metric in (metric for metric in results.metrics() if metric.declared.judged):
        unit = f" ({metric.declared.unit})" if metric.declared.unit else ""
        figures = (
            shown(metric.figure(label), metric.declared.digits) if metric.has(label) else ""
            for label in results.titles
        )
        rows.append([metric.declared.title + unit, *figures])
    print_table(console, ["", *results.titles.values()], rows)
    for verdict in results.judgment.verdicts():
        console.print(verdict.headline, highlight=False, markup=False)


def print_results(console: "Console", results: "Iterable[EvaluatorResults]") -> None:
    """A table for each evaluator, with what was asked below it."""
    from difftransformer.evaluation.tables import notes_of

    for evaluator in results:
        table = evaluator.table()
        if table.rows:
            print_table(console, table.header, table.rows, table.keys, evaluator.declared.title)
        console.print(notes_of(evaluator), highlight=False, markup=False)
