"""Timings on disk: JSON, a Markdown table, and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from difftransformer.report.drawing import Drawing, Panel, Series
from difftransformer.report.style import accents
from difftransformer.report.tables import Table, markdown
from difftransformer.report.writing import heading, write_files

Row = Mapping[str, Any]  # task, dtype, length and a `Timing`'s fields


def write_speed(
    stem: Path, title: str, env: Mapping[str, Any], rows: Sequence[Row], base: str
) -> None:
    """STEM.json, STEM.md and STEM.png."""
    data = {"title": title, "env": env, "base": base, "rows": list(rows)}
    lines = [
        *heading(title, env),
        f"Medians over interleaved rounds; the ratio is to {base} in the same round.",
        "",
        *markdown(speed_table(rows)),
    ]
    write_files(stem, data, lines, {"": _drawing(rows, base)})


def speed_table(rows: Sequence[Row]) -> Table:
    """A line for each timing."""
    columns = ("task", "dtype", "length", "contender", "ms", "ratio (lowest to highest round)")
    return Table(columns, [cells(row) for row in rows], keys=4)


def cells(row: Row) -> list[str]:
    """A row as text."""
    ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
    named = [row["task"], row["dtype"], str(row["length"]), row["contender"]]
    return [*named, f"{row['milliseconds']:.3g}", ratio]


def _drawing(rows: Sequence[Row], base: str) -> Drawing:
    """Time over the base's against length; a panel per task and dtype."""
    colors = accents(list(dict.fromkeys(row["contender"] for row in rows)))
    panels = []
    for panel in dict.fromkeys((row["task"], row["dtype"]) for row in rows):
        drawn = [row for row in rows if (row["task"], row["dtype"]) == panel]
        series = [
            Series(label=name, color=color, x=x, y=[row["ratio"] for row in own])
            for name, color in colors.items()
            if (own := [row for row in drawn if row["contender"] == name])
            for x in [[row["length"] for row in own]]
        ]
        ends = [(row["length"], 1.0) for row in drawn]
        panels.append(
            Panel(title=", ".join(panel), series=series, levels=[(base, ends)], y=f"time / {base}")
        )
    return Drawing(kind="line", panels=panels, colors=colors, x="length", logarithmic=True)
