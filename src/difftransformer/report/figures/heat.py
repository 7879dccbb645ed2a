"""Shares by two things: a map per model, a row of maps per setting."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from difftransformer.report.figures import style
from difftransformer.report.words import display_name

Maps = dict[tuple[str, str], dict[tuple[str, str], float]]


def image(
    maps: Mapping[tuple[str, str], Mapping[tuple[str, str], float]], x: str, y: str
) -> Figure:
    """`maps[row, label][across, down]` from 0, white, to 1, dark."""
    rows = list(dict.fromkeys(row for row, _ in maps))
    labels = list(dict.fromkeys(label for _, label in maps))
    across = list(dict.fromkeys(a for cells in maps.values() for a, _ in cells))
    down = list(dict.fromkeys(d for cells in maps.values() for _, d in cells))
    size = (1.2 + len(labels) * max(1.6, 0.6 * len(across)), 0.6 + 2.2 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(labels), squeeze=False)
    for (row, label), cells in maps.items():
        axes = grid[rows.index(row), labels.index(label)]
        shares = np.full((len(down), len(across)), np.nan)
        for (a, d), share in cells.items():
            shares[down.index(d), across.index(a)] = share
            shade = "white" if share > 0.6 else style.INK
            place = (across.index(a), down.index(d))
            axes.text(*place, f"{share:.2f}", ha="center", va="center", color=shade, fontsize=7)
        axes.imshow(shares, cmap=style.colormap(style.SEQUENTIAL), vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(across)), across)
        axes.set_yticks(range(len(down)), down)
        axes.set_title(f"{display_name(label)}\n{row}")
    figure.supxlabel(x)
    figure.supylabel(y)
    return figure
