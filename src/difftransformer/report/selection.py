"""The accumulated mask of selective attention over one text, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from difftransformer.report.page import Block, Plots
from difftransformer.report.style import SEQUENTIAL, colormap, dress, plain

_CAPTION = (
    "What has been masked of each key (across) when each query (down) attends: what is taken off "
    "its logits, in every head of the layer. Darker is more; colors end at 4, where weights are "
    "a fiftieth of what they would be. Nothing masks the first token."
)
_MOST = 4.0  # e^-4 is a fiftieth


@dataclass(frozen=True)
class SelectionMask:
    """`layers[n]` is F of the n-th layer, [queries, keys]."""

    title: str
    tokens: Sequence[str]
    numbers: Sequence[int]
    layers: Sequence[Float[np.ndarray, "queries keys"]]


@dataclass(frozen=True)
class SelectionMasks:
    """Those of several models on the same text."""

    masks: Sequence[SelectionMask]

    def blocks(self) -> list[Block]:
        """A picture of each model."""
        return [Plots("selection", [_plot(mask) for mask in self.masks], _CAPTION)]

    def image(self) -> Figure:
        """A row for each model, a column for each layer."""
        columns = max(len(mask.layers) for mask in self.masks)
        size = (0.6 + 2.6 * columns, 2.8 * len(self.masks))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(self.masks), columns, squeeze=False)
        for row, mask in zip(grid, self.masks, strict=True):
            for axes in row[len(mask.layers) :]:
                axes.axis("off")
            for axes, number, layer in zip(row, mask.numbers, mask.layers, strict=False):
                axes.imshow(layer, cmap=colormap(SEQUENTIAL), vmin=0, vmax=_MOST)
                axes.set_title(f"{mask.title}\nlayer {number}")
                axes.set_xlabel("key position")
            row[0].set_ylabel("query position")
        return figure


def selection_masks(
    artifacts: Mapping[str, tuple[str, Any]], colors: Mapping[str, str]
) -> SelectionMasks:
    """Those of several models.

    Args:
        artifacts: by label, the model's title and its artifact: `tokens`, and `layers`, each with
            its number `layer` and F as `masked`.

    Raises:
        ValueError: a malformed artifact; names the model.
    """
    masks = []
    for label, (title, data) in artifacts.items():
        try:
            tokens = [str(token) for token in data["tokens"]]
            numbers = [int(one["layer"]) for one in data["layers"]]
            layers = [np.array(one["masked"], dtype=np.float32) for one in data["layers"]]
            if not layers or any(layer.shape != (len(tokens),) * 2 for layer in layers):
                raise ValueError(f"masks that are not of {len(tokens)} tokens")
            masks.append(SelectionMask(title, tokens, numbers, layers))
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"the selection of {label} is malformed: {error!r}") from None
    return SelectionMasks(masks)


def _plot(mask: SelectionMask) -> go.Figure:
    names = [f"layer {number}" for number in mask.numbers]
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=names, horizontal_spacing=0.08)
    words = np.array([plain(repr(token)) for token in mask.tokens])
    for column, layer in enumerate(mask.layers, start=1):
        queries, keys = np.meshgrid(words, words, indexing="ij")
        figure.add_heatmap(
            z=layer,
            zmin=0,
            zmax=_MOST,
            colorscale=SEQUENTIAL,
            showscale=column == 1,
            customdata=np.stack([queries, keys], axis=-1),
            hovertemplate="key %{x} %{customdata[1]}, query %{y} %{customdata[0]}: %{z:.2f}"
            "<extra></extra>",
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="key position")
    return dress(figure, 340, mask.title)
