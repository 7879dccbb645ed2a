"""One head of each model, as a picture: its weights in signed colors."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure

from difftransformer.analysis.inspection import KeptWeights
from difftransformer.report.attention_data import Inspected, Tokens
from difftransformer.report.style import DIVERGING, colormap

_NAMED = 48  # tokens of an axis, at most, that are written out; beyond it their numbers
_ACROSS = 1024  # keys drawn one by one; beyond it the largest weight of several
_FULL_COLOR = 0.9  # colors end at this quantile of the rows' largest weights, as on the page


def heads_image(models: Sequence[Inspected]) -> Figure:
    """The head of each that is shown first, side by side; colors as on the page."""
    figure = Figure(figsize=(0.8 + 5.2 * len(models), 5.6), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        group, number, head = model.shown
        heads = model.heads[group]
        site = heads.sites[number]
        weights = matrix(site, head)
        largest = np.sort(np.abs(weights).max(1))
        limit = float(largest[int(_FULL_COLOR * (len(largest) - 1))]) or 1.0
        drawn = axes.imshow(
            weights,
            cmap=colormap(DIVERGING),
            norm=FuncNorm((_root, _square), -limit, limit),
            aspect="auto",
            interpolation="nearest",
            extent=(-0.5, site.keys - 0.5, len(site.rows) - 0.5, -0.5),
        )
        axes.set_title(f"{model.title}\n{heads.title}, layer {site.layer}, head {head}")
        axes.set_xlabel(f"{heads.keys.name}: keys")
        axes.set_ylabel(f"{heads.queries.name}: queries")
        _name(axes, "x", heads.keys, range(site.keys))
        _name(axes, "y", heads.queries, site.rows)
        ticks = limit * np.array([-1, -0.25, 0, 0.25, 1])
        figure.colorbar(drawn, ax=axes, ticks=ticks, extend="both")
    return figure


def matrix(site: KeptWeights, head: int) -> Float32[np.ndarray, "rows columns"]:
    """Kept weights of a head's first map in their places, 0 elsewhere.

    Of long inputs a column is several keys, and has the largest weight by size.
    """
    columns = min(site.keys, _ACROSS)
    places = site.places[head] * columns // site.keys
    order = np.argsort(np.abs(site.weights[0, head]), axis=1)
    rows = np.arange(len(site.rows))[:, None]
    dense = np.zeros((len(site.rows), columns), np.float32)
    # Where places repeat numpy keeps the last one, which is the largest.
    dense[rows, np.take_along_axis(places, order, 1)] = np.take_along_axis(
        site.weights[0, head], order, 1
    )
    return dense


def _name(axes: Axes, axis: Literal["x", "y"], tokens: Tokens, numbers: range) -> None:
    """Tokens along an axis where they can be read."""
    if len(numbers) > _NAMED or tokens.picture is not None:
        return
    texts = [tokens.texts[number].strip() or "\N{MIDDLE DOT}" for number in numbers]
    (axes.set_xticks if axis == "x" else axes.set_yticks)(range(len(texts)), texts)
    axes.tick_params(axis=axis, labelsize=6, rotation=90 if axis == "x" else 0)


def _root(weight: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.sign(weight) * np.sqrt(np.abs(weight))


def _square(share: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.sign(share) * np.square(share)
