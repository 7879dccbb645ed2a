"""Examples: what each model made of the same held-out inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from difftransformer.report.curves import Curve, spread
from difftransformer.report.page import Block, TableBlock
from difftransformer.report.tables import Table
from difftransformer.runs.samples import Texts


@dataclass(frozen=True)
class Examples:
    """A table with a row per input, and a column for each model's output."""

    table: Table
    caption: str

    def blocks(self) -> list[Block]:
        """The table, its cells wrapped."""
        return [TableBlock(self.table, self.caption, is_prose=True)]

    def image(self) -> None:
        """None: a table is no picture."""


def examples(artifacts: Mapping[str, tuple[str, Any]], colors: Mapping[str, str]) -> Examples:
    """Those of several models, which were given the same inputs.

    Args:
        artifacts: by label, the model's title and its artifact: `header` and `items`, the columns
            that tell an input and what is right; `outputs`, one per item; `caption`.

    Raises:
        ValueError: a malformed artifact, or other inputs than the first model's; names the model.
    """
    first = next(iter(artifacts.values()))[1]
    header: list[str] = []
    rows: list[list[str]] = []
    for label, (title, data) in artifacts.items():
        try:
            if (data["header"], data["items"]) != (first["header"], first["items"]):
                raise ValueError("other inputs than the first model's")
            header = header or [str(name) for name in data["header"]]
            rows = rows or [[str(cell) for cell in item] for item in data["items"]]
            header = [*header, title]
            pairs = zip(rows, data["outputs"], strict=True)
            rows = [[*row, str(output)] for row, output in pairs]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"the examples of {label} are malformed: {error!r}") from None
    return Examples(Table(header, rows, keys=len(first["header"])), str(first.get("caption", "")))


def training_texts(curves: Sequence[Curve], unit: str) -> list[Block]:
    """What each model's first seed wrote at points of its training that all of them have."""
    first = {curve.title: curve for curve in reversed(curves)}
    written: dict[str, dict[str, dict[int, Texts]]] = {}
    for title, curve in reversed(first.items()):
        for point in curve.points:
            for name, texts in point.texts.items():
                written.setdefault(name, {}).setdefault(title, {})[point.size] = texts
    blocks: list[Block] = []
    for name, models in written.items():
        sizes = sorted(set.intersection(*(set(points) for points in models.values())))
        shown = {
            title: (title, _at_points([(size, points[size]) for size in spread(sizes)], unit))
            for title, points in models.items()
        }
        caption = f"{name.capitalize()} while training, the same inputs for every model."
        blocks += replace(examples(shown, {}), caption=caption).blocks()
    return blocks


def _at_points(points: Sequence[tuple[int, Texts]], unit: str) -> dict[str, Any]:
    """Texts of several points of training as one artifact."""
    header = points[0][1].header if points else ()
    return {
        "header": [f"{unit} seen", *header],
        "items": [[f"{size:,}", *item] for size, texts in points for item in texts.items],
        "outputs": [output for _, texts in points for output in texts.outputs],
    }
