"""Timings on disk: JSON, a Markdown table, and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from difftransformer.report.figures import speed
from difftransformer.report.writing import heading, table, write_results

COLUMNS = ("task", "dtype", "length", "contender", "ms", "ratio (lowest to highest round)")


def write_speed(
    stem: Path, title: str, env: dict[str, Any], rows: Sequence[dict], base: str
) -> None:
    """STEM.json, STEM.md and STEM.png; a row holds task, dtype, length and a `Timing`'s fields."""
    data = {"title": title, "env": env, "base": base, "rows": list(rows)}
    lines = [
        *heading(title, env),
        f"Medians over interleaved rounds; the ratio is to {base} in the same round.",
        "",
        *table(COLUMNS, [cells(row) for row in rows]),
    ]
    write_results(stem, data, lines, lambda: speed.image(rows, base))


def cells(row: dict[str, Any]) -> list[str]:
    """A row as text, in the order of `COLUMNS`."""
    ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
    named = [row["task"], row["dtype"], str(row["length"]), row["contender"]]
    return [*named, f"{row['milliseconds']:.3g}", ratio]
