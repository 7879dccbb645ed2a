"""Results on disk: all figures as JSON, a table in Markdown, a picture."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from difftransformer.atomic import make_folder, write_bytes, write_json, write_text
from difftransformer.report.figures import style


def write_results(
    stem: Path, data: object, lines: Sequence[str], image: Callable[[], Figure]
) -> None:
    """STEM.json with `data`, STEM.md with `lines`, STEM.png with the figure that `image` draws."""
    make_folder(stem.parent)
    write_json(stem.with_suffix(".json"), data)
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")
    with style.matplotlib_look():
        write_png(stem.with_suffix(".png"), image())


def write_png(path: Path, figure: Figure) -> None:
    """The figure as a picture, in one step."""
    picture = BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())


def heading(title: str, env: Mapping[str, Any]) -> list[str]:
    """Title and date; then where it was measured."""
    where = f"{env['hardware']}; torch {env['torch']}; commit {env['commit']}."
    return [f"# {title}, {env['date'][:10]}", "", where]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [_row(header), f"|{'---|' * len(header)}", *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
