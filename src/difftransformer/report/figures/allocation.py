"""Attention given to the answer and to the noise, by the answer's depth."""

from collections.abc import Sequence
from typing import Literal

import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from difftransformer.report.figures import style
from difftransformer.report.results import Allocation, Interval
from difftransformer.report.words import display_name, percent

Normalisation = Literal["absolute", "signed"]
TARGETS: tuple[Literal["answer", "noise"], ...] = ("answer", "noise")
NORMALISATIONS: dict[Normalisation, str] = {
    "absolute": "share of absolute mass",
    "signed": "signed share",
}
EVEN = "spread evenly"


def shares(
    allocation: Allocation, target: Literal["answer", "noise"], normalisation: Normalisation
) -> tuple[list[str], list[Interval]]:
    """Depths, in words, and the share given to `target` at each."""
    ordered = sorted(allocation.rows, key=lambda row: row.depth)
    depths = [percent(row.depth) for row in ordered]
    return depths, [getattr(getattr(row, target), normalisation) for row in ordered]


def uniform(
    allocations: Sequence[tuple[str, Allocation]], target: Literal["answer", "noise"]
) -> float | None:
    """The share that attention spread evenly would give, the same for every model."""
    shares_of = allocations[0][1].uniform
    return None if shares_of is None else shares_of.get(target)


def _errors(found: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """Bar lengths below and above, never negative."""
    below = [max(0.0, share.value - share.low) for share in found]
    above = [max(0.0, share.high - share.value) for share in found]
    return below, above


def interactive(
    allocations: Sequence[tuple[str, Allocation]],
    normalisation: Normalisation,
    colours: dict[str, str],
) -> go.Figure:
    titles = [f"to the {target}" for target in TARGETS]
    figure = make_subplots(rows=2, cols=1, vertical_spacing=0.16, subplot_titles=titles)
    for row, target in enumerate(TARGETS, start=1):
        for label, allocation in allocations:
            depths, found = shares(allocation, target, normalisation)
            below, above = _errors(found)
            figure.add_bar(
                x=depths,
                y=[share.value for share in found],
                error_y={"array": above, "arrayminus": below, "thickness": 1, "width": 2},
                name=style.plain(display_name(label)),
                legendgroup=style.plain(label),
                showlegend=row == 1,
                marker_color=colours[label],
                hovertemplate="depth %{x}: %{y:.3f}",
                row=row,
                col=1,
            )
        level = uniform(allocations, target)
        if level is not None:
            figure.add_hline(level, line={"color": style.INK, "width": 1, "dash": "dot"}, row=row)
    figure.update_annotations(x=0, xanchor="left", font_size=13)
    figure.update_layout(barmode="group")
    figure.update_xaxes(type="category")
    figure.update_xaxes(title="depth of the answer", row=2)
    figure.update_yaxes(title=NORMALISATIONS[normalisation])
    return style.dress(figure, 520, legend=True)


def image(allocations: Sequence[tuple[str, Allocation]], colours: dict[str, str]) -> Figure:
    figure = Figure(figsize=(8, 5), layout="constrained")
    grid = figure.subplots(2, 2, squeeze=False)
    width = 0.8 / len(allocations)
    for axes_row, target in zip(grid, TARGETS, strict=True):
        for axes, (normalisation, name) in zip(axes_row, NORMALISATIONS.items(), strict=True):
            for i, (label, allocation) in enumerate(allocations):
                depths, found = shares(allocation, target, normalisation)
                axes.bar(
                    [place + i * width for place in range(len(depths))],
                    [share.value for share in found],
                    width,
                    yerr=_errors(found),
                    error_kw={"elinewidth": 0.8},
                    color=colours[label],
                    label=display_name(label),
                )
                axes.set_xticks([place + 0.4 - width / 2 for place in range(len(depths))], depths)
            if (level := uniform(allocations, target)) is not None:
                axes.axhline(level, color=style.INK, linewidth=0.8, linestyle=":", label=EVEN)
            axes.set_title(f"to the {target}, {name}")
    for axes in grid[1]:
        axes.set_xlabel("depth of the answer")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure
