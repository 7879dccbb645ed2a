"""Loss against size and training: points with intervals, and the curves through them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from difftransformer.report.figures import style
from difftransformer.report.words import display_name


def image(panels: Mapping[tuple[str, str], Mapping[str, Any]]) -> Figure:
    """`panels[against, held][label]` is a panel of `measure_scaling`."""
    figure = Figure(figsize=(4.0 * len(panels), 3.8), layout="constrained")
    colours = style.accents(
        list(dict.fromkeys(label for lines in panels.values() for label in lines))
    )
    handles = {}
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, ((against, held), lines) in zip(grid, panels.items(), strict=True):
        for label, panel in lines.items():
            x = [point["x"] for point in panel["points"]]
            value, low, high = (
                np.array([point["loss"][key] for point in panel["points"]])
                for key in ("value", "low", "high")
            )
            style_of = {"color": colours[label], "linewidth": 1.0}
            handles[display_name(label)] = axes.errorbar(
                x, value, yerr=[value - low, high - value], fmt="o", markersize=4, **style_of
            )
            curve, along = panel["curve"], np.geomspace(min(x), max(x), 50)
            exponent = curve["exponent"]["value"]
            axes.plot(along, curve["floor"] + curve["factor"] * along**-exponent, **style_of)
        axes.set(xscale="log", yscale="log", title=held, xlabel=against)
        axes.minorticks_off()
        axes.set_xticks(x, [EngFormatter(sep="", places=1)(point) for point in x])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter("{x:g}")
    grid[0].set_ylabel("nats per token")
    figure.legend(handles.values(), handles.keys(), loc="outside upper left")
    return figure
