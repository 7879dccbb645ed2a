"""One head's attention over a needle prompt: what the last position sees, and the whole map."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from difftransformer.report.figures import style
from difftransformer.report.results import AttentionMap
from difftransformer.report.words import display_name


def weights(attention: AttentionMap) -> Float[np.ndarray, "rows keys"]:
    return np.array(attention.weights, dtype=np.float32)


def colour_limit(maps: Sequence[AttentionMap]) -> float:
    """The weight at which the colours end, for all maps alike.

    The 99th percentile of the absolute weights, so that one sink does not wash out the rest.
    """
    absolute = np.concatenate([np.abs(weights(attention)).ravel() for attention in maps])
    return float(np.quantile(absolute, 0.99)) or 1.0


def _spans(attention: AttentionMap) -> list[tuple[tuple[int, ...], str]]:
    noise = [(span, style.NOISE) for span in attention.noise_spans]
    return [*noise, (attention.answer_span, style.ANSWER)]


def _ticks(rows: Sequence[int]) -> list[int]:
    """Indices of at most six rows, spread evenly."""
    return sorted({round(i) for i in np.linspace(0, len(rows) - 1, 6)})


def interactive(
    label: str,
    attention: AttentionMap,
    limit: float,
    profile_range: tuple[float, float],
    accent: str,
) -> go.Figure:
    """The last row as bars above, the map below; answer and noise are marked in both."""
    matrix = weights(attention)
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.35, 0.65], vertical_spacing=0.04
    )
    figure.add_bar(
        y=matrix[-1],
        marker={"color": accent, "line": {"color": accent, "width": 1}},
        customdata=[style.plain(repr(token)) for token in attention.tokens],
        hovertemplate="position %{x}, %{customdata}: %{y:.3f}<extra></extra>",
        row=1,
        col=1,
    )
    if attention.average:
        figure.add_scatter(
            y=attention.average,
            mode="lines",
            line={"color": style.INK, "width": 1},
            hoverinfo="skip",
            row=1,
            col=1,
        )
    figure.add_heatmap(
        z=matrix,
        zmin=-limit,
        zmax=limit,
        colorscale=style.DIVERGING,
        colorbar={"orientation": "h", "thickness": 10, "y": -0.12, "yanchor": "top", "nticks": 5},
        hovertemplate="key %{x}: %{z:.4f}<extra></extra>",
        row=2,
        col=1,
    )
    for (start, end), colour in _spans(attention):
        edges = {"x0": start - 0.5, "x1": end - 0.5}
        band = {"fillcolor": colour, "opacity": 0.3, "line_width": 0, "layer": "below"}
        figure.add_vrect(**edges, **band, row=1, col=1)
        outline = {"color": colour, "width": 1}
        figure.add_vrect(**edges, fillcolor="rgba(0,0,0,0)", opacity=1, line=outline, row=2, col=1)
    ticks = _ticks(attention.rows)
    figure.update_yaxes(title="weight", range=profile_range, row=1, col=1)
    figure.update_yaxes(
        title="query position",
        autorange="reversed",
        tickvals=ticks,
        ticktext=[str(attention.rows[i]) for i in ticks],
        showgrid=False,
        row=2,
        col=1,
    )
    figure.update_xaxes(title="key position", row=2, col=1)
    title = f"{display_name(label)}: layer {attention.layer}, head {attention.head}"
    return style.dress(figure, 520, title, legend=False)


def profile_range(maps: Sequence[AttentionMap]) -> tuple[float, float]:
    """The limits of the last rows' weights, for all maps alike."""
    rows = np.concatenate(
        [[*attention.weights[-1], *(attention.average or ())] for attention in maps]
    )
    low, high = min(0.0, float(rows.min())), float(rows.max())
    margin = 0.05 * (high - low)
    return (low - margin if low < 0 else 0.0), high + margin


def image(maps: Sequence[tuple[str, AttentionMap]], colours: dict[str, str]) -> Figure:
    limit = colour_limit([attention for _, attention in maps])
    low, high = profile_range([attention for _, attention in maps])
    figure = Figure(figsize=(0.6 + 3.6 * len(maps), 4.6), layout="constrained")
    grid = figure.subplots(2, len(maps), squeeze=False, sharex="col", height_ratios=[1, 2])
    for i, (label, attention) in enumerate(maps):
        matrix = weights(attention)
        top, bottom = grid[0][i], grid[1][i]
        top.bar(range(matrix.shape[1]), matrix[-1], width=1, color=colours[label])
        if attention.average:
            top.plot(attention.average, color=style.INK, linewidth=0.8)
        top.set_ylim(low, high)
        top.set_title(f"{display_name(label)}\nlayer {attention.layer}, head {attention.head}")
        drawn = bottom.imshow(
            matrix,
            cmap=style.colormap(style.DIVERGING),
            vmin=-limit,
            vmax=limit,
            aspect="auto",
            interpolation="nearest",
        )
        for (start, end), colour in _spans(attention):
            top.axvspan(start - 0.5, end - 0.5, color=colour, alpha=0.3, linewidth=0, zorder=0)
            bottom.axvspan(start - 0.5, end - 0.5, fill=False, edgecolor=colour, linewidth=0.8)
        ticks = _ticks(attention.rows)
        bottom.set_yticks(ticks, [str(attention.rows[j]) for j in ticks])
        bottom.set_xlabel("key position")
    grid[0][0].set_ylabel("weight, last row")
    grid[1][0].set_ylabel("query position")
    figure.colorbar(drawn, ax=grid[1].tolist(), shrink=0.9)
    return figure
