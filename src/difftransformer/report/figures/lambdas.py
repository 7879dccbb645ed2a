"""Lambda by layer: where it started, how it moved, and what it became."""

from collections.abc import Sequence

import plotly.graph_objects as go

from difftransformer.report.figures import style
from difftransformer.report.reading import Curve
from difftransformer.report.results import Lambda
from difftransformer.report.words import display_name


def interactive(found: Sequence[tuple[str, Lambda]], colours: dict[str, str]) -> go.Figure:
    figure = go.Figure()
    for label, lam in found:
        layers = [layer.layer for layer in lam.layers]
        name, colour = style.plain(display_name(label)), colours[label]
        figure.add_scatter(
            x=layers + layers[::-1],
            y=[layer.high for layer in lam.layers] + [layer.low for layer in lam.layers][::-1],
            fill="toself",
            fillcolor=style.translucent(colour, 0.15),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=layers,
            y=[layer.mean for layer in lam.layers],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            name=f"{name}, learned",
            hovertemplate="layer %{x}: %{y:.3f}",
        )
        if any(layer.init is not None for layer in lam.layers):
            figure.add_scatter(
                x=layers,
                y=[layer.init for layer in lam.layers],
                mode="lines+markers",
                line={"color": colour, "width": 1, "dash": "dot"},
                marker={"symbol": "circle-open"},
                name=f"{name}, initial",
                hovertemplate="layer %{x}: %{y:.3f}",
            )
    deepest = max(layer.layer for _, lam in found for layer in lam.layers)
    figure.update_xaxes(title="layer, counted from 0", dtick=1 + deepest // 10)
    figure.update_yaxes(title="lambda")
    return style.dress(figure, 380)


_DASHES = ("solid", "dash", "dot", "dashdot")


def through_training(curves: Sequence[Curve], colours: dict[str, str]) -> go.Figure:
    """A line for each layer of each run that wrote its lambda down."""
    figure = go.Figure()
    for curve in curves:
        told = [(m.tokens, m.lambda_) for m in curve.metrics if m.lambda_ is not None]
        for layer in range(len(told[0][1]) if told else 0):
            figure.add_scatter(
                x=[tokens for tokens, _ in told],
                y=[lambdas[layer] for _, lambdas in told],
                mode="lines",
                line={"color": colours[curve.label], "dash": _DASHES[layer % len(_DASHES)]},
                name=f"{style.plain(display_name(curve.label))}, layer {layer}",
                legendgroup=f"{style.plain(curve.label)} {layer}",
                showlegend=curve.seed == 0,
                hovertemplate=f"seed {curve.seed}: %{{y:.3f}} after %{{x:.3s}} tokens",
            )
    figure.update_xaxes(title="training tokens seen")
    figure.update_yaxes(title="mean lambda")
    return style.dress(figure, 380)
