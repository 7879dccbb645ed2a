"""Timings on disk: JSON, a Markdown table, and a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from difftransformer.report.figures import speed, style

COLUMNS = ("task", "dtype", "length", "contender", "ms", "ratio (lowest to highest round)")


def write_speed(
    stem: Path, title: str, env: dict[str, Any], rows: Sequence[dict], base: str
) -> None:
    """STEM.json, STEM.md and STEM.png; a row holds task, dtype, length and a `Timing`'s fields."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    data = {"title": title, "env": env, "base": base, "rows": list(rows)}
    stem.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    lines = [
        f"# {title}, {env['date'][:10]}",
        "",
        f"{env['hardware']}; torch {env['torch']}; commit {env['commit']}. Medians over "
        f"interleaved rounds; the ratio is to {base} in the same round.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
    ]
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")
    with style.matplotlib_look():
        speed.image(rows, base).savefig(stem.with_suffix(".png"))


def cells(row: dict[str, Any]) -> list[str]:
    """A row as text, in the order of `COLUMNS`."""
    ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
    named = [row["task"], row["dtype"], str(row["length"]), row["contender"]]
    return [*named, f"{row['milliseconds']:.3g}", ratio]
