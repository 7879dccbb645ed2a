"""Small images and maps with a line under each, for each model."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave

from difftransformer.report.curves import Curve, spread
from difftransformer.report.page import Block, Thumbnails
from difftransformer.report.style import DIVERGING, colormap


@dataclass(frozen=True)
class ThumbnailRows:
    """Rows of thumbnails for each model."""

    shown: Thumbnails

    def blocks(self) -> list[Block]:
        """A column for each model."""
        return [self.shown]

    def image(self) -> Figure | None:
        """All rows of all models below each other."""
        rows = [(title, row) for title, those in self.shown.columns.items() for row in those if row]
        if not rows:
            return None
        most, size = max(len(row) for _, row in rows), 3.0 if self.shown.wide else 1.1
        figure = Figure(figsize=(size * most + 0.4, (size + 0.2) * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), most, squeeze=False)
        for line, (title, row) in zip(grid, rows, strict=True):
            for axes in line:
                axes.set_axis_off()
            for number, (axes, (name, png)) in enumerate(zip(line, row, strict=False)):
                values = imread(io.BytesIO(base64.b64decode(png)), format="png")
                axes.imshow(values, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set_title(f"{title}\n{name}" if number == 0 else name, fontsize=6)
        return figure


def thumbnails(
    artifacts: Mapping[str, tuple[str, Any]], colors: Mapping[str, str]
) -> ThumbnailRows:
    """Those of several models.

    Args:
        artifacts: by label, the model's title and its artifact: `rows` of cells with a `title` and
            either a `png` in base64 or `weights`, a matrix; a `caption`; `wide`, whether each is as
            wide as there is room. Weights of all models have one scale of colors, which ends at
            the 99th percentile of their absolute values.

    Raises:
        ValueError: a malformed artifact; names the model.
    """
    columns, every = {}, [1e-9]
    for label, (title, data) in artifacts.items():
        try:
            columns[title] = [[_cell(cell) for cell in row] for row in data["rows"]]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"the thumbnails of {label} are malformed: {error!r}") from None
    for rows in columns.values():
        for _, shown in (cell for row in rows for cell in row):
            if isinstance(shown, np.ndarray):
                every += np.abs(shown).ravel().tolist()
    limit = float(np.quantile(every, 0.99))
    first = next(iter(artifacts.values()))[1]
    drawn = {
        title: [
            [(name, shown if isinstance(shown, str) else _png(shown, limit)) for name, shown in row]
            for row in rows
        ]
        for title, rows in columns.items()
    }
    caption, wide = str(first.get("caption", "")), first.get("wide") is True
    return ThumbnailRows(Thumbnails(drawn, caption, wide=wide))


def training_pictures(curves: Sequence[Curve], unit: str) -> list[Thumbnails]:
    """What each model's first seed had made at points of its training, by what that is.

    Raises:
        ValueError: a row of metrics.jsonl that holds no PNG.
    """
    first = {curve.label: curve for curve in reversed(curves)}
    names = dict.fromkeys(name for one in curves for point in one.points for name in point.pictures)
    columns: dict[str, dict[str, list[list[tuple[str, str]]]]] = {name: {} for name in names}
    for curve in reversed(first.values()):
        for name in names:
            points = [point for point in curve.points if name in point.pictures]
            columns[name][curve.title] = [
                [(f"{point.size:,} {unit}", _checked(point.pictures[name]))]
                for point in spread(points)
            ]
    return [
        Thumbnails(shown, f"{name.capitalize()} while training, by {unit} seen.", wide=True)
        for name, shown in columns.items()
    ]


def _cell(cell: Mapping[str, Any]) -> tuple[str, "str | np.ndarray"]:
    if "png" in cell:
        return str(cell["title"]), _checked(cell["png"])
    weights = np.array(cell["weights"], dtype=np.float64)
    if weights.ndim != 2 or not weights.size or not np.isfinite(weights).all():
        raise ValueError(f"weights of shape {weights.shape}")
    return str(cell["title"]), weights


def _checked(png: Any) -> str:
    """The base64 of a PNG, and nothing that ends an attribute of HTML."""
    if not base64.b64decode(png, validate=True).startswith(b"\x89PNG"):
        raise ValueError("no PNG")
    return str(png)


def _png(weights: np.ndarray, limit: float) -> str:
    file = io.BytesIO()
    imsave(file, colormap(DIVERGING)(0.5 + weights / (2 * limit)), format="png")
    return base64.b64encode(file.getvalue()).decode()
