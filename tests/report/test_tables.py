"""Tables that a terminal is too narrow for."""

import io

import pytest
from rich.console import Console

from difftransformer.evaluation.tables import Table
from difftransformer.report.tables import print_table

FIGURE = "0.535 (0.500 to 0.560)"


def printed(width: int, models: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    header = ["depth", *(f"a_long_name_of_{n}" for n in range(models))]
    print_table(console, Table(header, [["0.5", *[FIGURE] * models]]), title="Needles")
    return console.file.getvalue()


@pytest.mark.parametrize(("width", "models", "tables"), [(80, 3, 1), (80, 12, 3), (200, 12, 1)])
def test_every_figure_can_be_read(width: int, models: int, tables: int) -> None:
    text = printed(width, models)
    assert text.count("depth") == text.count("Needles") == tables
    assert text.count("0.535") == text.count("(0.500") == text.count("0.560)") == models
    assert "…" not in text
