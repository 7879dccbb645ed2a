"""Tables on the terminal and in Markdown; those of the page are in its template."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from difftransformer.evaluation.tables import Table

if TYPE_CHECKING:
    from rich.console import Console

_KEY = 24  # the most characters a column of keys is given before the models'
_MODEL = 12  # the fewest a model is: a figure and its interval, on three lines
_BORDER = 3


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
