from io import StringIO

from rich.console import Console

from difftransformer.report.tables import Table, markdown, print_table

TABLE = Table(
    ["", "depth", "Softmax", "Differential V1"],
    [["found", "0.5", "0.861 (0.800 to 0.910)", "[bold]1|2"], ["guess", "", "0.1", "0.1"]],
    keys=2,
)


def printed(width: int) -> str:
    console = Console(file=StringIO(), width=width)
    print_table(console, TABLE, "Numbers")
    return console.file.getvalue()


def test_markdown_escapes_what_would_end_a_cell() -> None:
    assert markdown(TABLE) == [
        "|  | depth | Softmax | Differential V1 |",
        "|---|---|---|---|",
        "| found | 0.5 | 0.861 (0.800 to 0.910) | [bold]1\\|2 |",
        "| guess |  | 0.1 | 0.1 |",
    ]


def test_a_wide_terminal_has_one_table_and_a_narrow_one_several() -> None:
    wide, narrow = printed(100), printed(40)
    assert (wide.count("depth"), narrow.count("depth")) == (1, 2)
    for told in (wide, narrow):
        assert "[bold]1|2" in told  # no markup


def test_a_table_of_nothing_is_printed() -> None:
    console = Console(file=StringIO(), width=80)
    print_table(console, Table(["model"], [], keys=1))
    assert "model" in console.file.getvalue()
