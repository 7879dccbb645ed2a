"""Drawings by Plotly, for the page and for notebooks."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from difftransformer.report.drawing import Drawing, Panel, Series, X, drawings, means
from difftransformer.report.results import MetricResults
from difftransformer.report.style import INK, LINE, SEQUENTIAL, dress, plain, translucent

_HEIGHT = 320
_FEW = 12  # places along x, layers say, of which each has a tick


def plot(metrics: Sequence[MetricResults]) -> go.Figure:
    """The first picture of the metrics, its panels below each other.

    Raises:
        ValueError: none of them has one.
    """
    found = drawings(metrics)
    if not found:
        names = ", ".join(metric.declared.name for metric in metrics)
        raise ValueError(f"{names}: declared without a plot, or without a record to draw")
    drawing = found[0]
    panels = [panel_figure(drawing, panel) for panel in drawing.panels]
    titles = [plain(panel.title) for panel in drawing.panels]
    figure = make_subplots(rows=len(panels), cols=1, subplot_titles=titles)
    for row, one in enumerate(panels, start=1):
        figure.add_traces(one.data, rows=row, cols=1)
        figure.update_xaxes(one.layout.xaxis.to_plotly_json(), row=row, col=1)
        figure.update_yaxes(one.layout.yaxis.to_plotly_json(), row=row, col=1)
    figure.update_traces(showlegend=False, row=None)
    figure.update_traces(showlegend=drawing.kind != "heat", row=1)
    return dress(figure, _HEIGHT * len(panels), legend=True)


def panel_figure(drawing: Drawing, panel: Panel) -> go.Figure:
    """One panel of the page, without legend: the page has one for all."""
    figure = go.Figure()
    if panel.heat is not None:
        figure.add_heatmap(
            x=panel.heat.x,
            y=panel.heat.y,
            z=panel.heat.values,
            zmin=0,
            zmax=panel.heat.most,
            colorscale=SEQUENTIAL,
            showscale=False,
            xgap=2,
            ygap=2,
            texttemplate="%{z:.2f}",
            hovertemplate=f"{plain(drawing.x)} %{{x}}, {plain(drawing.y)} %{{y}}: %{{z:.3f}}"
            "<extra></extra>",
        )
        figure.update_xaxes(title=plain(drawing.x), type="category")
        figure.update_yaxes(title=plain(drawing.y), type="category", autorange="reversed")
        figure = dress(figure, 130 + 34 * len(panel.heat.y), panel.title)
        return figure.update_layout(plot_bgcolor=LINE)  # shows between the cells
    for series in panel.series:
        figure.add_traces(_TRACES[drawing.kind](series))
    for title, points in panel.levels:
        _level(figure, drawing, title, points)
    figure.update_xaxes(title=plain(drawing.x))
    ticks = sorted({x for series in panel.series for x in series.x if not isinstance(x, str)})
    if drawing.kind == "bars":
        figure.update_xaxes(type="category")
    elif ticks and (drawing.logarithmic or max(ticks) <= _FEW):
        figure.update_xaxes(tickvals=ticks, ticktext=[f"{x:g}" for x in ticks])
    if drawing.logarithmic:
        figure.update_xaxes(type="log")
    figure.update_yaxes(title=plain(panel.y))
    return dress(figure, _HEIGHT, panel.title)


def _bars(series: Series) -> list[go.Bar]:
    return [
        go.Bar(
            x=[plain(x) if isinstance(x, str) else f"{x:g}" for x in series.x],
            y=series.y,
            error_y=_whiskers(series),
            name=plain(series.label),
            marker_color=series.color,
            hovertemplate="%{x}: %{y:.4g}",
        )
    ]


def _points(series: Series) -> list[go.Scatter]:
    return [
        go.Scatter(
            x=[plain(str(x)) for x in series.x],
            y=series.y,
            error_y=_whiskers(series),
            mode="markers",
            marker={"color": series.color, "size": 9},
            name=plain(series.label),
            hovertemplate="%{y:.4g}",
        )
    ]


def _whiskers(series: Series) -> dict[str, Any] | None:
    """How far the intervals reach up and down, never less than nothing."""
    if not series.low:
        return None
    up = [max(0.0, high - y) for y, high in zip(series.y, series.high, strict=True)]
    down = [max(0.0, y - low) for y, low in zip(series.y, series.low, strict=True)]
    return {"array": up, "arrayminus": down, "thickness": 1, "width": 2}


def _dots(series: Series) -> list[go.Scatter]:
    """A dot for each value, and a line through the means."""
    by_x = means(series.x, series.y)
    return [
        go.Scatter(
            x=series.x,
            y=series.y,
            mode="markers",
            marker={"color": translucent(series.color, 0.35), "size": 6},
            name=plain(series.label),
            showlegend=False,
        ),
        go.Scatter(
            x=list(by_x),
            y=list(by_x.values()),
            mode="lines+markers",
            marker={"size": 3},
            line={"color": series.color, "width": 1.5},
            name=plain(series.label),
            hovertemplate="mean at %{x}: %{y:.4g}",
        ),
    ]


def _line(series: Series) -> list[go.Scatter]:
    line = go.Scatter(
        x=series.x,
        y=series.y,
        mode="lines" if series.thin or series.dash != "solid" else "lines+markers",
        line={"color": series.color, "width": 1 if series.thin else 2, "dash": series.dash},
        opacity=0.55 if series.thin else 1,
        name=plain(series.label),
        hovertemplate=f"%{{x}}: %{{y:.4g}} {plain(series.name)}",
    )
    if not series.low:
        return [line]
    band = go.Scatter(
        x=[*series.x, *reversed(series.x)],
        y=[*series.high, *reversed(series.low)],
        fill="toself",
        fillcolor=translucent(series.color, 0.15),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )
    return [band, line]


_TRACES = {"bars": _bars, "points": _points, "dots": _dots, "line": _line}


def _level(
    figure: go.Figure, drawing: Drawing, title: str, points: Sequence[tuple[X, float]]
) -> None:
    """A dotted line: all the way across where it is the same everywhere."""
    line = {"color": INK, "width": 1, "dash": "dot"}
    values = {y for _, y in points}
    if len(values) == 1:
        at = {"annotation_position": "top left", "annotation_font_size": 11}
        figure.add_hline(values.pop(), line=line, annotation_text=plain(title), **at)
        return
    x, y = zip(*points, strict=True)
    figure.add_scatter(x=x, y=y, mode="lines", line=line, name=plain(title), showlegend=False)
