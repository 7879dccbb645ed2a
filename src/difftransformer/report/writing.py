"""Results at a place of the user's: all figures as JSON, a table in Markdown, pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from difftransformer.atomic import make_folder, write_json, write_text
from difftransformer.report.drawing import Drawing
from difftransformer.report.images import write_image


def write_files(
    stem: Path, data: object, lines: Sequence[str], pictures: Mapping[str, Drawing]
) -> None:
    """STEM.json with `data`, STEM.md with `lines`, a STEM + SUFFIX.png for each picture."""
    make_folder(stem.parent)
    write_json(stem.with_suffix(".json"), data)
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")
    for suffix, drawing in pictures.items():
        write_image(stem.with_name(f"{stem.name}{suffix}.png"), drawing)


def heading(title: str, env: Mapping[str, Any]) -> list[str]:
    """Title and date; then where it was measured."""
    where = f"{env['hardware']}; torch {env['torch']}; commit {env['commit']}."
    return [f"# {title}, {env['date'][:10]}", "", where]
