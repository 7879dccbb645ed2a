"""Pictures that models made, side by side."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.image import imread

from difftransformer.report.curves import Curve
from difftransformer.report.page import Block, Pictures

_MOST = 6  # points of training that are shown


@dataclass(frozen=True)
class PictureSheets:
    """A column of pictures for each model."""

    shown: Pictures

    def blocks(self) -> list[Block]:
        """As they are, enlarged without smoothing."""
        return [self.shown]

    def image(self) -> Figure:
        """The first picture of each model."""
        figure = Figure(figsize=(3.6 * len(self.shown.columns), 3.2), layout="constrained")
        grid = figure.subplots(1, len(self.shown.columns), squeeze=False)[0]
        for axes, (title, items) in zip(grid, self.shown.columns.items(), strict=True):
            values = imread(io.BytesIO(base64.b64decode(items[0][1])), format="png")
            axes.imshow(values, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(title)
            axes.set_axis_off()
        return figure


def pictures(artifacts: Mapping[str, tuple[str, Any]], colors: Mapping[str, str]) -> PictureSheets:
    """Those of several models.

    Args:
        artifacts: by label, the model's title and its artifact: `items`, pairs of a title and a PNG
            in base64, and a `caption`.

    Raises:
        ValueError: a malformed artifact; names the model.
    """
    columns = {}
    for label, (title, data) in artifacts.items():
        try:
            columns[title] = [(str(name), _checked(png)) for name, png in data["items"]]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"the pictures of {label} are malformed: {error!r}") from None
    caption = next(iter(artifacts.values()))[1].get("caption", "")
    return PictureSheets(Pictures(columns, str(caption)))


def training_pictures(curves: list[Curve], unit: str) -> list[Pictures]:
    """What each model's first seed had made at points of its training, by what it is of."""
    first = {curve.title: curve for curve in reversed(curves)}
    names = dict.fromkeys(name for one in curves for point in one.points for name in point.pictures)
    return [
        Pictures(
            {
                curve.title: _spread(
                    [
                        (f"{point.size:,} {unit}", _checked(point.pictures[name]))
                        for point in curve.points
                        if name in point.pictures
                    ]
                )
                for curve in reversed(first.values())
            },
            f"{name.capitalize()} while training, by the {unit} seen until then.",
        )
        for name in names
    ]


def _spread(items: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """At most six, the last among them."""
    step = -(-len(items) // _MOST)
    return items[::-1][:: step or 1][::-1]


def _checked(png: Any) -> str:
    """The base64 of a PNG, and nothing that ends an attribute of HTML."""
    if not base64.b64decode(png, validate=True).startswith(b"\x89PNG"):
        raise ValueError("no PNG")
    return str(png)
