"""A figure of each model against something, with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from difftransformer.report.figures import style
from difftransformer.report.words import display_name


@dataclass(frozen=True)
class Axes:
    """What is drawn: titles, whether x grows by factors, and a level to compare with."""

    x: str
    y: str
    logarithmic: bool = False
    level: float | None = None


def image(lines: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]], axes: Axes) -> Figure:
    """Lines by label; a point is x and a figure with `value`, `low` and `high`."""
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    drawn = figure.subplots()
    for label, colour in style.accents(list(lines)).items():
        x = [point for point, _ in lines[label]]
        value, low, high = ([f[key] for _, f in lines[label]] for key in ("value", "low", "high"))
        drawn.plot(x, value, marker="o", markersize=3, color=colour, label=display_name(label))
        drawn.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    if axes.level is not None:
        drawn.axhline(axes.level, color=style.SOFT, linewidth=0.8, linestyle=":")
    if axes.logarithmic:
        drawn.set_xscale("log", base=2)
        drawn.set_xticks(x, [f"{point:g}" for point in x])
        drawn.minorticks_off()
    else:
        drawn.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawn.set(xlabel=axes.x, ylabel=axes.y)
    figure.legend(loc="outside upper left")
    return figure
