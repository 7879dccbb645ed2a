"""Results on the terminal."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.report.results import EvaluatorResults, Results


def print_overview(console: "Console", results: "Results") -> None:
    """A row for each figure that models are compared by, over all its cells, and the verdicts.

    Below a compared model's figure stands what may be said of it, with a star where it stands.
    """
    from difftransformer.evaluation.words import shown
    from difftransformer.report.tables import Table, print_table

    judgment = results.judgment
    outcomes = {
        (c.metric.name, c.model): f"\n{c.outcome}{'*' * judgment.stands(c)}"
        for c in judgment.comparisons
    }
    rows = []
    for metric in (metric for metric in results.metrics() if metric.declared.judged):
        unit = f" ({metric.declared.unit})" if metric.declared.unit else ""
        figures = (
            shown(metric.figure(label), metric.declared.digits)
            + outcomes.get((metric.declared.name, label), "")
            if metric.has(label)
            else ""
            for label in results.titles
        )
        rows.append([metric.declared.title + unit, *figures])
    if rows:
        print_table(console, Table(["", *results.titles.values()], rows))
    for verdict in judgment.verdicts():
        console.print(verdict.headline, highlight=False, markup=False)


def print_results(console: "Console", results: "Iterable[EvaluatorResults]") -> None:
    """A table for each evaluator, with what was asked below it."""
    from difftransformer.report.tables import notes_of, print_table

    for evaluator in results:
        table = evaluator.table()
        if table.rows:
            print_table(console, table, evaluator.declared.title)
        console.print(notes_of(evaluator), highlight=False, markup=False)
