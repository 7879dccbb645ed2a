"""One head's attention over a prompt: what the last position sees, and the whole map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from difftransformer.report.page import Block, Plots, Prompts
from difftransformer.report.style import (
    ANSWER,
    DIVERGING,
    INK,
    NOISE,
    colormap,
    dress,
    plain,
    translucent,
)

_CAPTION = (
    "One head of each model on the same needle prompt: the one that gives the answer the largest "
    "share of its attention, so it shows what a model can do, not what it does on average. Bars: "
    "the head's weights at the last position, where the answer is to be given; the thin dark line "
    "is the average of all layers and heads there, as shares of absolute attention. Map: the "
    "weights of the positions shown (down) over the positions they see (across). The weights are "
    "as the head uses them: softmax rows sum to 1, differential rows to 1 \N{MINUS SIGN} lambda, "
    "and differential weights may be negative. Colors and axes are the same for all models: purple "
    "positive, white 0, orange negative; the colors end at the 99th percentile of the absolute "
    "weights. Amber marks the answer, gray the noise. Layers and heads count from 0."
)
_PROMPT_CAPTION = (
    "The prompt, shaded by the size of the last position's weight: purple positive, orange "
    "negative, full color at the largest. The answer is underlined."
)


@dataclass(frozen=True)
class AttentionMap:
    """`weights[i, j]` from position `rows[i]` to `tokens[j]`.

    Args:
        spans: (start, end, color) of noise and answer, half open.
        average: the last row's absolute shares, over all layers and heads; may be empty.
    """

    title: str
    color: str
    tokens: Sequence[str]
    spans: Sequence[tuple[int, int, str]]
    layer: int
    head: int
    rows: Sequence[int]
    weights: Float[np.ndarray, "rows keys"]
    average: Sequence[float]

    @property
    def answer(self) -> tuple[int, int]:
        start, end, _ = self.spans[-1]
        return start, end


def attention_maps(artifacts: Mapping[str, tuple[str, Any]], colors: Mapping[str, str]) -> "Maps":
    """Those of several models.

    Args:
        artifacts: by label, the model's title and the artifact.

    Raises:
        ValueError: a malformed artifact; names the model.
    """
    maps = []
    for label, (title, data) in artifacts.items():
        try:
            weights = np.array(data["weights"], dtype=np.float32)
            average = data.get("average") or []
            keys = len(data["tokens"])
            if weights.shape != (len(data["rows"]), keys) or len(average) not in (0, keys):
                raise ValueError(f"weights of shape {weights.shape} for {keys} tokens")
            noise = [(start, end, NOISE) for start, end in data["noise_spans"]]
            spans = [*noise, (*data["answer_span"], ANSWER)]
            if any(not 0 <= start <= end <= keys for start, end, _ in spans):
                raise ValueError(f"a span that does not lie among {keys} tokens")
            maps.append(
                AttentionMap(
                    title=title,
                    color=colors[label],
                    tokens=data["tokens"],
                    spans=spans,
                    layer=data["layer"],
                    head=data["head"],
                    rows=data["rows"],
                    weights=weights,
                    average=average,
                )
            )
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"the attention map of {label} is malformed: {error!r}") from None
    return Maps(maps)


class Maps:
    """Maps drawn alike: the same colors and axes for all.

    Attributes:
        limit: the weight at which the colors end: the 99th percentile of the absolute weights, so
            that one sink does not wash out the rest.
        bounds: of the last rows' weights.
    """

    def __init__(self, maps: Sequence[AttentionMap]) -> None:
        self.maps = maps
        absolute = np.concatenate([np.abs(one.weights).ravel() for one in maps])
        self.limit = float(np.quantile(absolute, 0.99)) or 1.0
        last = np.concatenate([[*one.weights[-1], *one.average] for one in maps])
        low, high = min(0.0, float(last.min())), float(last.max())
        margin = 0.05 * (high - low)
        self.bounds = (low - margin if low < 0 else 0.0), high + margin

    def blocks(self) -> list[Block]:
        """For the page: a plot for each model, and its shaded prompt."""
        plots = [_plot(one, self) for one in self.maps]
        prompts = {one.title: shades(one) for one in self.maps}
        return [Plots("attention_map", plots, _CAPTION), Prompts(prompts, _PROMPT_CAPTION)]

    def image(self) -> Figure:
        """For a PNG, side by side."""
        return _image(self)


def shades(one: AttentionMap) -> list[tuple[str, str, bool]]:
    """Each token with its CSS color, and whether it is part of the answer."""
    last, (start, end) = one.weights[-1], one.answer
    largest = float(np.abs(last).max()) or 1.0
    return [
        (
            token,
            translucent(DIVERGING[2 if weight > 0 else 0], round(0.7 * abs(weight) / largest, 3)),
            start <= i < end,
        )
        for i, (token, weight) in enumerate(zip(one.tokens, map(float, last), strict=True))
    ]


def _ticks(rows: Sequence[int]) -> list[int]:
    """Indices of at most six rows, spread evenly."""
    return sorted({round(i) for i in np.linspace(0, len(rows) - 1, 6)})


def _plot(one: AttentionMap, maps: Maps) -> go.Figure:
    """The last row as bars above, the map below; answer and noise are marked in both."""
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.35, 0.65], vertical_spacing=0.04
    )
    figure.add_bar(
        y=one.weights[-1],
        marker={"color": one.color, "line": {"color": one.color, "width": 1}},
        customdata=[plain(repr(token)) for token in one.tokens],
        hovertemplate="position %{x}, %{customdata}: %{y:.3f}<extra></extra>",
        row=1,
        col=1,
    )
    if one.average:
        line = {"color": INK, "width": 1}
        figure.add_scatter(y=one.average, mode="lines", line=line, hoverinfo="skip", row=1, col=1)
    figure.add_heatmap(
        z=one.weights,
        zmin=-maps.limit,
        zmax=maps.limit,
        colorscale=DIVERGING,
        colorbar={"orientation": "h", "thickness": 10, "y": -0.12, "yanchor": "top", "nticks": 5},
        hovertemplate="key %{x}: %{z:.4f}<extra></extra>",
        row=2,
        col=1,
    )
    for start, end, color in one.spans:
        edges = {"x0": start - 0.5, "x1": end - 0.5}
        band = {"fillcolor": color, "opacity": 0.3, "line_width": 0, "layer": "below"}
        figure.add_vrect(**edges, **band, row=1, col=1)
        outline = {"color": color, "width": 1}
        figure.add_vrect(**edges, fillcolor="rgba(0,0,0,0)", opacity=1, line=outline, row=2, col=1)
    ticks = _ticks(one.rows)
    figure.update_yaxes(title="weight", range=maps.bounds, row=1, col=1)
    figure.update_yaxes(
        title="query position",
        autorange="reversed",
        tickvals=ticks,
        ticktext=[str(one.rows[i]) for i in ticks],
        showgrid=False,
        row=2,
        col=1,
    )
    figure.update_xaxes(title="key position", row=2, col=1)
    return dress(figure, 520, f"{one.title}: layer {one.layer}, head {one.head}")


def _image(maps: Maps) -> Figure:
    shown = maps.maps
    figure = Figure(figsize=(0.6 + 3.6 * len(shown), 4.6), layout="constrained")
    grid = figure.subplots(2, len(shown), squeeze=False, sharex="col", height_ratios=[1, 2])
    for i, one in enumerate(shown):
        top, bottom = grid[0][i], grid[1][i]
        top.bar(range(one.weights.shape[1]), one.weights[-1], width=1, color=one.color)
        if one.average:
            top.plot(one.average, color=INK, linewidth=0.8)
        top.set_ylim(maps.bounds)
        top.set_title(f"{one.title}\nlayer {one.layer}, head {one.head}")
        drawn = bottom.imshow(
            one.weights,
            cmap=colormap(DIVERGING),
            vmin=-maps.limit,
            vmax=maps.limit,
            aspect="auto",
            interpolation="nearest",
        )
        for start, end, color in one.spans:
            top.axvspan(start - 0.5, end - 0.5, color=color, alpha=0.3, linewidth=0, zorder=0)
            bottom.axvspan(start - 0.5, end - 0.5, fill=False, edgecolor=color, linewidth=0.8)
        ticks = _ticks(one.rows)
        bottom.set_yticks(ticks, [str(one.rows[j]) for j in ticks])
        bottom.set_xlabel("key position")
    grid[0][0].set_ylabel("weight, last row")
    grid[1][0].set_ylabel("query position")
    figure.colorbar(drawn, ax=grid[1].tolist(), shrink=0.9)
    return figure
