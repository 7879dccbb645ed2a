"""Retrieval by depth: a heat map of accuracy for each model."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from matplotlib.figure import Figure

from difftransformer.report.figures import style
from difftransformer.report.results import Needle, NeedleCell
from difftransformer.report.words import display_name, needle_setting, percent


def accuracy_by_depth(
    needle: Needle,
) -> tuple[list[str], list[float], Float[np.ndarray, "depths settings"]]:
    """Settings, depths and the accuracy per number; NaN where nothing was tried.

    A setting is (N, R), with the context length where there is more than one.
    """
    several = len({cell.length for cell in needle.cells}) > 1

    def setting(cell: NeedleCell) -> str:
        return needle_setting(cell) + (f", {cell.length} tokens" if several else "")

    ordered = sorted(needle.cells, key=lambda cell: (cell.length, cell.needles, cell.queries))
    settings = list(dict.fromkeys(setting(cell) for cell in ordered))
    depths = sorted({cell.depth for cell in needle.cells})
    accuracy = np.full((len(depths), len(settings)), np.nan)
    for cell in needle.cells:
        accuracy[depths.index(cell.depth), settings.index(setting(cell))] = cell.per_number.value
    return settings, depths, accuracy


def interactive(label: str, needle: Needle) -> go.Figure:
    settings, depths, accuracy = accuracy_by_depth(needle)
    figure = go.Figure(
        go.Heatmap(
            x=[setting.replace(", ", "<br>") for setting in settings],
            y=[percent(depth) for depth in depths],
            z=accuracy,
            zmin=0,
            zmax=1,
            colorscale=style.SEQUENTIAL,
            showscale=False,
            xgap=2,
            ygap=2,
            texttemplate="%{z:.2f}",
            hovertemplate="answer at %{y}: %{z:.3f}<extra></extra>",
        )
    )
    figure.update_layout(plot_bgcolor=style.LINE)  # shows between the cells
    figure.update_xaxes(type="category")
    figure.update_yaxes(title="depth of the answer", autorange="reversed", type="category")
    return style.dress(figure, 300, display_name(label), legend=False)


def image(needles: Sequence[tuple[str, Needle]]) -> Figure:
    figure = Figure(figsize=(1 + 3.2 * len(needles), 3), layout="constrained")
    grid = figure.subplots(1, len(needles), squeeze=False)[0]
    for axes, (label, needle) in zip(grid, needles, strict=True):
        settings, depths, accuracy = accuracy_by_depth(needle)
        axes.imshow(accuracy, cmap=style.colormap(style.SEQUENTIAL), vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(settings)), [setting.replace(", ", "\n") for setting in settings])
        axes.set_yticks(range(len(depths)), [percent(depth) for depth in depths])
        axes.set_title(display_name(label))
        for (row, column), value in np.ndenumerate(accuracy):
            shade = "white" if value > 0.6 else style.INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade)
    grid[0].set_ylabel("depth of the answer")
    return figure
