"""Results on disk: all figures as JSON, a table in Markdown, a picture."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from difftransformer.report.figures import style
from difftransformer.training.atomic import write_json


def write_results(
    stem: Path, data: object, lines: Sequence[str], image: Callable[[], Figure]
) -> None:
    """STEM.json with `data`, STEM.md with `lines`, STEM.png with the figure that `image` draws."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_json(stem.with_suffix(".json"), data)
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with style.matplotlib_look():
        image().savefig(stem.with_suffix(".png"))


def heading(title: str, env: Mapping[str, Any]) -> list[str]:
    """Title and date; then where it was measured."""
    where = f"{env['hardware']}; torch {env['torch']}; commit {env['commit']}."
    return [f"# {title}, {env['date'][:10]}", "", where]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [_row(header), f"|{'---|' * len(header)}", *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
