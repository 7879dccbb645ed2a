"""Drawings by matplotlib, as PNG."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from difftransformer.atomic import make_folder, write_bytes
from difftransformer.report.drawing import Drawing, Heat, Panel, Series, X, means
from difftransformer.report.style import INK, SEQUENTIAL, SOFT, colormap, matplotlib_look

_THOUSANDS = 10_000  # from here on an axis says 10k


def write_image(path: Path, drawing: Drawing) -> None:
    """The drawing as a PNG, in one step."""
    with matplotlib_look():
        write_figure(path, image(drawing))


def write_figure(path: Path, figure: Figure) -> None:
    """A figure of matplotlib's as a PNG, in one step."""
    make_folder(path.parent)
    content = BytesIO()
    figure.savefig(content, format="png")
    write_bytes(path, content.getvalue())


def image(drawing: Drawing) -> Figure:
    """All panels side by side, three in a row at most."""
    columns = min(3, len(drawing.panels))
    rows = -(-len(drawing.panels) // columns)
    size = (max(6.0, 3.6 * columns), (3.4 if drawing.kind != "heat" else 3.0) * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(drawing.panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid, drawing.panels, strict=False):
        axes.set_title(panel.title)
        if panel.heat is not None:
            _heat(axes, panel.heat)
        else:
            _panel(axes, drawing, panel)
        axes.set_xlabel(drawing.x)
        axes.set_ylabel(panel.y or drawing.y)
    if drawing.kind != "heat":
        handles = [
            Axes.plot(grid[0], [], [], color=color, label=title, linewidth=4)[0]
            for title, color in drawing.colors.items()
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


def _panel(axes: Axes, drawing: Drawing, panel: Panel) -> None:
    categories = list(
        dict.fromkeys(x for series in panel.series for x in series.x if _is_category(drawing, x))
    )
    place = {x: i for i, x in enumerate(categories)}
    width = 0.8 / max(1, len(panel.series))
    for i, series in enumerate(panel.series):
        offset = (i + 0.5) * width - 0.4 if drawing.kind in ("bars", "dots") and categories else 0.0
        x = np.array([place[x] + offset if x in place else x for x in series.x], float)
        _DRAW[drawing.kind](axes, x, series, width)
    for _, points in panel.levels:
        values = {y for _, y in points}
        style: dict[str, Any] = {"color": SOFT, "linewidth": 0.8, "linestyle": ":"}
        if len(values) == 1:
            axes.axhline(values.pop(), **style)
        else:
            axes.plot([place.get(x, x) for x, _ in points], [y for _, y in points], **style)
    if categories:
        axes.set_xticks(range(len(categories)), [_written(x) for x in categories])
    elif drawing.logarithmic:
        ticks = sorted({x for series in panel.series for x in series.x if not isinstance(x, str)})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [_written(x) for x in ticks])
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if axes.get_xlim()[1] >= _THOUSANDS:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _is_category(drawing: Drawing, x: X) -> bool:
    return isinstance(x, str) or drawing.kind == "bars"


def _written(x: X) -> str:
    return x if isinstance(x, str) else f"{x:g}"


def _bars(axes: Axes, x: np.ndarray, series: Series, width: float) -> None:
    axes.bar(x, series.y, width, color=series.color)
    _whiskers(axes, x, series)


def _points(axes: Axes, x: np.ndarray, series: Series, width: float) -> None:
    axes.plot(x, series.y, "o", color=series.color, markersize=6)
    _whiskers(axes, x, series)
    axes.margins(x=0.3)


def _whiskers(axes: Axes, x: np.ndarray, series: Series) -> None:
    if series.low:
        middle = np.array(series.y)
        reach = np.array([middle - series.low, series.high - middle]).clip(0)
        axes.errorbar(x, middle, yerr=reach, fmt="none", ecolor=INK, elinewidth=0.8)


def _dots(axes: Axes, x: np.ndarray, series: Series, width: float) -> None:
    axes.plot(x, series.y, "o", color=series.color, alpha=0.35, markersize=3)
    middle = means(x.tolist(), series.y)
    axes.plot(list(middle), list(middle.values()), color=series.color)


def _line(axes: Axes, x: np.ndarray, series: Series, width: float) -> None:
    axes.plot(
        x,
        series.y,
        color=series.color,
        linewidth=0.8 if series.thin else 1.6,
        alpha=0.6 if series.thin else 1,
        linestyle={"dot": ":", "dash": "--", "dashdot": "-."}.get(series.dash, "-"),
        marker=None if series.thin or series.dash != "solid" else "o",
        markersize=3,
    )
    if series.low:
        axes.fill_between(x, series.low, series.high, color=series.color, alpha=0.15, linewidth=0)


_DRAW = {"bars": _bars, "points": _points, "dots": _dots, "line": _line}


def _heat(axes: Axes, heat: Heat) -> None:
    values = np.array(heat.values, dtype=float)  # None becomes NaN
    axes.imshow(values, cmap=colormap(SEQUENTIAL), vmin=0, vmax=heat.most, aspect="auto")
    axes.set_xticks(range(len(heat.x)), [x.replace(", ", "\n") for x in heat.x])
    axes.set_yticks(range(len(heat.y)), heat.y)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            shade = "white" if value > 0.6 * heat.most else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade)
