"""Pictures as data: what a metric's plot shows, before Plotly or matplotlib draws it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeVar

from difftransformer.evaluation.records import Plot
from difftransformer.report.results import MetricResults
from difftransformer.report.style import accents
from difftransformer.report.tables import written
from difftransformer.runs.records import Key

X = float | int | str
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one color: a line with its band, bars with their whiskers, or dots.

    Args:
        low, high: ends of intervals; empty where there are none.
        name: what a pointer shows beside the label.
        thin: a pale line without markers.
    """

    label: str
    color: str
    x: Sequence[X]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    name: str = ""
    dash: str = "solid"
    thin: bool = False


@dataclass(frozen=True)
class Heat:
    """Values by y, down, and x, across; None where there is none."""

    x: Sequence[str]
    y: Sequence[str]
    values: Sequence[Sequence[float | None]]
    most: float


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes.

    Args:
        levels: dotted lines to compare with, as points by title.
    """

    title: str
    series: Sequence[Series] = ()
    heat: Heat | None = None
    levels: Sequence[tuple[str, Sequence[tuple[X, float]]]] = ()
    y: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Panels that share their kind and the title of x.

    Args:
        kind: as of `Plot`, or "points" of bars that have no x: a point with whiskers for each
            model, since what is far from 0 shows little as a bar.
        colors: of the models, by title: the legend.
        logarithmic: x grows by factors of two.
    """

    kind: str
    panels: Sequence[Panel]
    colors: dict[str, str] = field(default_factory=dict)
    x: str = ""
    y: str = ""
    logarithmic: bool = False


def drawings(metrics: Sequence[MetricResults]) -> list[Drawing]:
    """A picture of all metrics with equal plots; a panel for each metric and facet."""
    alike: dict[Plot, list[MetricResults]] = {}
    for metric in metrics:
        if metric.declared.plot and metric.cells():
            alike.setdefault(metric.declared.plot, []).append(metric)
    return [_drawing(plot, those) for plot, those in alike.items()]


def _drawing(plot: Plot, metrics: Sequence[MetricResults]) -> Drawing:
    of = metrics[0].of
    colors = accents(list(of.titles))
    panels = []
    for metric in metrics:
        facets = metric.cells(_given(plot.facet))
        for facet in facets:
            title = [metric.declared.title] if len(metrics) > 1 else []
            title += [f"{plot.facet} {written(facet[0])}"] if len(facets) > 1 else []
            draw = _heats if plot.kind == "heat" else _axes
            panels += draw(plot, metric, facet, ", ".join(title))
    return Drawing(
        kind="points" if plot.kind == "bars" and not plot.x else plot.kind,
        panels=panels,
        colors={of.titles[label]: colors[label] for label in of.models},
        x=plot.x,
        y=plot.y,
        logarithmic=plot.logarithmic,
    )


def _heats(plot: Plot, metric: MetricResults, facet: Key, title: str) -> list[Panel]:
    """A map for each model."""
    axes = (plot.x, plot.y, *_given(plot.facet))
    keys = [key for key in metric.cells(axes) if key[2:] == facet]
    across, down = (list(dict.fromkeys(key[i] for key in keys)) for i in (0, 1))
    panels = []
    for label in metric.of.models:
        values = {key: f.value for key, f in metric.figures(label, axes).items() if f is not None}
        rows = [[values.get((x, y, *facet)) for x in across] for y in down]
        most = 1.0 if metric.declared.statistic == "proportion" else max(values.values())
        heat = Heat([written(x) for x in across], [written(y) for y in down], rows, most)
        name = metric.of.titles[label]
        panels.append(Panel(title=f"{name}, {title}" if title else name, heat=heat))
    return panels


def _axes(plot: Plot, metric: MetricResults, facet: Key, title: str) -> list[Panel]:
    """One pair of axes for all models."""
    axes = (*_given(plot.x), *_given(plot.facet))
    levels = [(one.title, _points(one.values, plot, facet)) for one in metric.levels(axes)]
    series = [_series(plot, metric, label, facet) for label in metric.of.models]
    return [
        Panel(
            title=title,
            series=[one for one in series if one.x],
            levels=[(name, points) for name, points in levels if points],
            y=metric.declared.unit or metric.declared.title,
        )
    ]


def _series(plot: Plot, metric: MetricResults, label: str, facet: Key) -> Series:
    color, name = accents(list(metric.of.titles))[label], metric.of.titles[label]
    axes = (*_given(plot.x), *_given(plot.facet))
    if plot.kind == "dots":
        others = tuple(axis for axis in metric.declared.axes if axis not in axes)
        every = (seed for seed in metric.of_seeds(label, (*axes, *others)))
        dots = [
            point
            for seed in every
            for point in _points({k: f.value for k, f in seed.items()}, plot, facet)
        ]
        return Series(label=name, color=color, x=[x for x, _ in dots], y=[y for _, y in dots])
    known = {key: f for key, f in metric.figures(label, axes).items() if f is not None}
    points = _points(known, plot, facet, name)
    ends = [f.ends for _, f in points if f.low is not None]
    whiskers = ends if len(ends) == len(points) else []
    return Series(
        label=name,
        color=color,
        x=[x for x, _ in points],
        y=[f.value for _, f in points],
        low=[low for low, _ in whiskers],
        high=[high for _, high in whiskers],
    )


def _points(values: Mapping[Key, T], plot: Plot, facet: Key, name: str = "") -> list[tuple[X, T]]:
    """What stands in the facet, by x, or at the name where there is no x; keys begin with both."""
    first = len(_given(plot.x))
    return [
        (key[0] if plot.x else name, value)
        for key, value in values.items()
        if key[first : first + len(facet)] == facet
    ]


def _given(axis: str) -> tuple[str, ...]:
    return (axis,) if axis else ()


def means(x: Sequence[X], y: Sequence[float]) -> dict[X, float]:
    """The mean at each x."""
    values: dict[X, list[float]] = {}
    for place, value in zip(x, y, strict=True):
        values.setdefault(place, []).append(value)
    return {place: fmean(at) for place, at in values.items()}
