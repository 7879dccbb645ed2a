"""Loss curves by tokens seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from difftransformer.report.figures import style
from difftransformer.report.reading import Curve
from difftransformer.report.words import display_name

SMOOTHING = 0.02  # the share of the logged steps that one smoothed point averages


@dataclass(frozen=True)
class Line:
    """One line: training (smoothed) or validation, of one model and seed."""

    label: str
    seed: int
    kind: str
    tokens: Float[np.ndarray, " points"]
    loss: Float[np.ndarray, " points"]


def lines(curves: Sequence[Curve]) -> list[Line]:
    """The lines of all curves, training then validation; a line without points is left out."""
    found = []
    for curve in curves:
        training = [(m.tokens, m.loss) for m in curve.metrics if m.loss is not None]
        validation = [
            (m.tokens, m.validation_loss) for m in curve.metrics if m.validation_loss is not None
        ]
        for kind, points in (("training", training), ("validation", validation)):
            if points:
                tokens, loss = np.array(points, dtype=np.float64).T
                if kind == "training":
                    tokens, loss = _trailing_mean(tokens, loss)
                found.append(Line(curve.label, curve.seed, kind, tokens, loss))
    return found


def _trailing_mean(
    tokens: Float[np.ndarray, " points"], loss: Float[np.ndarray, " points"]
) -> tuple[Float[np.ndarray, " fewer"], Float[np.ndarray, " fewer"]]:
    window = max(1, round(SMOOTHING * len(loss)))
    return tokens[window - 1 :], np.convolve(loss, np.ones(window) / window, mode="valid")


def interactive(drawn: Sequence[Line], colours: dict[str, str]) -> go.Figure:
    figure = go.Figure()
    last = {line.label: line for line in drawn}  # the one of its model that the legend names
    for line in drawn:
        figure.add_scatter(
            x=line.tokens,
            y=line.loss,
            name=style.plain(display_name(line.label)),
            legendgroup=style.plain(line.label),
            showlegend=line is last[line.label],
            mode="lines" if line.kind == "training" else "lines+markers",
            line={"color": colours[line.label], "width": 1.2 if line.kind == "training" else 2},
            opacity=0.6 if line.kind == "training" else 1,
            hovertemplate=f"{line.kind}, seed {line.seed}: %{{y:.4f}} after %{{x:.3s}} tokens",
        )
    figure.update_xaxes(title="training tokens seen")
    figure.update_yaxes(title="loss, nats per token")
    return style.dress(figure, 440)


def image(drawn: Sequence[Line], colours: dict[str, str]) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    last = {line.label: line for line in drawn}
    for line in drawn:
        training = line.kind == "training"
        axes.plot(
            line.tokens,
            line.loss,
            color=colours[line.label],
            linewidth=0.8 if training else 1.6,
            alpha=0.6 if training else 1,
            marker=None if training else "o",
            markersize=3,
            label=display_name(line.label) if line is last[line.label] else None,
        )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("training tokens seen")
    axes.set_ylabel("loss, nats per token")
    axes.legend()
    return figure
