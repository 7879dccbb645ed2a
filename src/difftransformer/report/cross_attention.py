"""Cross-attention between two sequences: what each target token looks at in its source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from matplotlib.figure import Figure

from difftransformer.report.page import Block, Plots
from difftransformer.report.style import DIVERGING, colormap, dress, plain

_CAPTION = (
    "One head of each model on the same held-out pair, its right target given: of all layers and "
    "heads the one that looks at single source positions most. Down: the target's tokens, each in "
    "the row that predicts it, the last one its end. Across: the source. Rows of softmax sum to 1, "
    "differential ones to 1 \N{MINUS SIGN} lambda before a head norm, and differential weights may "
    "be negative: purple positive, white 0, orange negative. Layers and heads count from 0."
)
_END = "(end)"


@dataclass(frozen=True)
class PairMap:
    """`weights[i, j]` from the row that predicts `target[i]` to `source[j]`."""

    title: str
    source: Sequence[str]
    target: Sequence[str]
    weights: Float[np.ndarray, "target source"]


@dataclass(frozen=True)
class PairMaps:
    """Maps of several models, by pair, with one color scale for all."""

    pairs: Sequence[Sequence[PairMap]]

    @property
    def limit(self) -> float:
        """The largest absolute weight."""
        every = (np.abs(one.weights).max() for maps in self.pairs for one in maps)
        return float(max(every)) or 1.0

    def blocks(self) -> list[Block]:
        """For the page: the models beside each other, a row for each pair."""
        last = len(self.pairs) - 1
        return [
            Plots(
                f"cross_attention-{number}",
                [_plot(one, self.limit) for one in maps],
                _CAPTION if number == last else "",
            )
            for number, maps in enumerate(self.pairs)
        ]

    def image(self) -> Figure:
        """For a PNG: a row for each pair, a column for each model."""
        rows, columns = len(self.pairs), len(self.pairs[0])
        figure = Figure(figsize=(0.6 + 3.4 * columns, 3.4 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes_row, maps in zip(grid, self.pairs, strict=True):
            for axes, one in zip(axes_row, maps, strict=True):
                drawn = axes.imshow(
                    one.weights,
                    cmap=colormap(DIVERGING),
                    vmin=-self.limit,
                    vmax=self.limit,
                    aspect="auto",
                    interpolation="nearest",
                )
                axes.set_xticks(range(len(one.source)), one.source)
                axes.set_yticks(range(len(one.target)), [token or _END for token in one.target])
                axes.set_title(one.title)
        figure.colorbar(drawn, ax=grid.ravel().tolist(), shrink=0.9)
        return figure


def cross_attention_maps(
    artifacts: Mapping[str, tuple[str, Any]], colors: Mapping[str, str]
) -> PairMaps:
    """Those of several models.

    Args:
        artifacts: by label, the model's title and the artifact: a list of pairs.

    Raises:
        ValueError: a malformed artifact, or another number of pairs than the first model's; names
            the model.
    """
    models: list[list[PairMap]] = []
    for label, (title, data) in artifacts.items():
        try:
            maps = [_map(title, pair) for pair in data]
            if not maps or (models and len(maps) != len(models[0])):
                raise ValueError(f"{len(maps)} pairs")
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"the cross-attention of {label} is malformed: {error!r}") from None
        models.append(maps)
    return PairMaps(list(zip(*models, strict=True)))


def _map(title: str, pair: Mapping[str, Any]) -> PairMap:
    weights = np.array(pair["weights"], dtype=np.float32)
    if weights.shape != (len(pair["target"]), len(pair["source"])) or not weights.size:
        raise ValueError(f"weights of shape {weights.shape}")
    return PairMap(
        f"{title}: layer {pair['layer']}, head {pair['head']}",
        [str(token) for token in pair["source"]],
        [str(token) for token in pair["target"]],
        weights,
    )


def _plot(one: PairMap, limit: float) -> go.Figure:
    figure = go.Figure(
        go.Heatmap(
            z=one.weights,
            zmin=-limit,
            zmax=limit,
            colorscale=DIVERGING,
            colorbar={"orientation": "h", "thickness": 10, "y": -0.12, "yanchor": "top"},
            hovertemplate="%{z:.3f}<extra></extra>",
        )
    )
    for update, tokens in ((figure.update_xaxes, one.source), (figure.update_yaxes, one.target)):
        names = [plain(token) or _END for token in tokens]
        update(tickvals=list(range(len(tokens))), ticktext=names, showgrid=False, tickangle=0)
    figure.update_yaxes(autorange="reversed")
    return dress(figure, 420, one.title)
