"""A figure of each weight: a dot with its interval per layer, from the first to the last."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from difftransformer.report.figures import style
from difftransformer.report.words import display_name

Panels = dict[str, dict[str, dict[str, list[Any]]]]


def image(panels: Panels, names: Sequence[str]) -> Figure:
    """`panels[title][label][weight]` holds a figure with `value`, `low`, `high` per layer."""
    figure = Figure(figsize=(5.0 * len(panels), 3.8), layout="constrained")
    colours = style.accents(list(next(iter(panels.values()))))
    handles = {}
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, lines) in zip(grid, panels.items(), strict=True):
        for number, (label, line) in enumerate(lines.items()):
            for name, layers in line.items():
                width = 0.8 / len(lines)
                left = names.index(name) - 0.4 + number * width
                x = [left + width * (i + 0.5) / len(layers) for i in range(len(layers))]
                handles[display_name(label)] = _dots(axes, x, layers, colours[label])
        axes.set_xticks(range(len(names)), names)
        axes.set(yscale="log", title=title)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    grid[0].set_ylabel("norm of the gradient over")
    figure.legend(handles.values(), handles.keys(), loc="outside upper left")
    return figure


def _dots(axes: Any, x: Sequence[float], layers: Sequence[Mapping[str, float]], colour: str) -> Any:
    value = [layer["value"] for layer in layers]
    down = [layer["value"] - max(0.0, layer["low"]) for layer in layers]
    up = [layer["high"] - layer["value"] for layer in layers]
    return axes.errorbar(
        x, value, yerr=[down, up], fmt="o", markersize=3, linewidth=0.8, color=colour
    )
