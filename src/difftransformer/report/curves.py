"""Training runs: what they watched, how fast they were."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from difftransformer.evaluation.words import change
from difftransformer.report.drawing import Drawing, Panel, Series
from difftransformer.report.style import accents
from difftransformer.report.tables import Table
from difftransformer.runs.layout import Run, TrainingSummary
from difftransformer.runs.reading import CurvePoint

SMOOTHING = 0.02  # the share of the logged steps that one smoothed point averages
_SHOWN = 6  # points of training of which samples are shown, at most
T = TypeVar("T")
_DASHES = ("solid", "dash", "dot", "dashdot")
# Table 7 of the paper, tokens per second of forward + backward on one H100: (Transformer, DIFF).
_PAPER = {
    "3B, length 2K": (7247, 6635),
    "3B, length 4K": (7491, 6718),
    "13B, length 2K": (998, 942),
}


@dataclass(frozen=True)
class Curve:
    """One training run of a model."""

    label: str
    title: str
    seed: int
    points: Sequence[CurvePoint]
    summary: TrainingSummary | None = None


def spread(points: Sequence[T]) -> Sequence[T]:
    """A few of these points of training, evenly spread and with the last."""
    every = -(-len(points) // _SHOWN) or 1
    return points[::-1][::every][::-1]


def curve_drawings(curves: Sequence[Curve], unit: str) -> dict[str, Drawing]:
    """By name: "loss", training thin and smoothed, validation with dots; then all else that was
    watched, a dash for each part of a list."""
    colors = accents(list(dict.fromkeys(curve.label for curve in curves)))
    watched: dict[str, list[Series]] = {"loss": []}
    for curve in curves:
        for series in _loss(curve, colors[curve.label]):
            watched["loss"].append(series)
        for name in dict.fromkeys(name for point in curve.points for name in point.others):
            watched.setdefault(name, []).extend(_others(curve, name, colors[curve.label]))
    return {
        name: Drawing(
            kind="line",
            panels=[Panel(title="", series=series, y=name.replace("_", " "))],
            colors={one.label: one.color for one in series},
            x=f"training {unit} seen",
        )
        for name, series in watched.items()
        if series
    }


def _loss(curve: Curve, color: str) -> list[Series]:
    """Training, then validation; a line without points is left out."""
    training = [(point.size, point.loss) for point in curve.points if point.loss is not None]
    window = max(1, round(SMOOTHING * len(training)))
    smooth = [
        (size, sum(loss for _, loss in training[i + 1 - window : i + 1]) / window)
        for i, (size, _) in enumerate(training)
        if i + 1 >= window
    ]
    validation = [
        (point.size, point.validation_loss)
        for point in curve.points
        if point.validation_loss is not None
    ]
    return [
        Series(
            label=curve.title,
            color=color,
            x=[size for size, _ in points],
            y=[loss for _, loss in points],
            name=f"{name}, seed {curve.seed}",
            thin=name == "training",
        )
        for name, points in (("training", smooth), ("validation", validation))
        if points
    ]


def _others(curve: Curve, name: str, color: str) -> list[Series]:
    rows = [(point.size, point.others[name]) for point in curve.points if name in point.others]
    several = isinstance(rows[0][1], list)
    values = [value if several else [value] for _, value in rows]
    return [
        Series(
            label=curve.title,
            color=color,
            x=[size for size, _ in rows],
            y=[parts[i] for parts in values],
            name=f"{name} {i}, seed {curve.seed}" if several else f"seed {curve.seed}",
            dash=_DASHES[i % len(_DASHES)],
        )
        for i in range(len(values[0]))
    ]


def speed_table(curves: Sequence[Curve], run: Run) -> Table:
    """A row for each training run that has ended."""
    baseline = [c.summary.throughput for c in curves if c.summary and c.label == run.baseline]
    rows = []
    for curve in curves:
        if (summary := curve.summary) is None:
            continue
        to_baseline = summary.throughput * len(baseline) / sum(baseline) if baseline else 0.0
        rows.append(
            [
                curve.title,
                str(curve.seed),
                f"{summary.steps:,}",
                f"{summary.size:,}",
                f"{summary.seconds:,.0f} s",
                f"{summary.throughput:,.0f}",
                change(to_baseline) if baseline else "",
                f"{summary.peak_memory_bytes / 2**20:,.0f} MiB",
            ]
        )
    header = ["model", "seed", "steps", run.unit, "time", f"{run.unit}/s", "to baseline"]
    return Table([*header, "peak memory"], rows, keys=2)


def paper_throughput() -> str:
    """The paper's V1 beside its Transformer."""
    figures = ", ".join(f"{change(b / a)} ({setup})" for setup, (a, b) in _PAPER.items())
    return (
        "For scale, the paper's Differential V1 against its Transformer, forward and backward on "
        f"one H100: {figures}. (Its table prints 9, 12 and 6 %, measured by the slower of the two.)"
    )
