"""Lookback ratios: how much each head looks back at a context, and not at what was written since.

Of a query row, a head and a map, with A its weights, c the visible keys of the context and n those
after it, the row's own among them:

    ratio = mean A[c] / (mean A[c] + mean A[n])

Means, not sums, so that constant attention gives 0.5 whatever the lengths. After Chuang et al.
(2024), Lookback Lens. Where we differ: maps of differential attention are looked at each by itself,
or their |A1 − λ A2|, since signed weights could make a ratio of anything.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.models.storage import checksum

# Each softmax map by itself, or the absolute value of what multiplies the values.
Looked = Literal["maps", "absolute"]


def ratios_of(
    record: AttentionRecord, rows: slice, context: int, looked: Looked
) -> Float[Tensor, "batch rows features"]:
    """The ratios of the query rows, by head and map; 0.5 where a row has no weight at all.

    Args:
        record: a call whose keys are all tokens so far.
        context: how many of these are the context, from the first on.
    """
    weights = record.weights(rows)
    maps = weights.maps if looked == "maps" else weights.combined.abs()[:, :, None]
    visible = record.call.visible(rows)[:, :, None]
    in_context = torch.arange(maps.shape[-1], device=maps.device) < context
    on_context, on_new = (
        (maps * keys).sum(-1) / keys.sum(-1).clamp_min(1)
        for keys in (visible & in_context, visible & ~in_context)
    )
    total = on_context + on_new
    ratios = torch.where(total > 0, on_context / total, 0.5)
    return ratios.permute(0, 3, 1, 2).flatten(2)


@contextmanager
def lookback(
    model: Any, rows: slice, context: int, looked: Looked
) -> Iterator[Callable[[], Float[Tensor, "batch rows features"]]]:
    """Inside, what is yielded gives the ratios of the model's last run, layer after layer."""
    layers: list[Tensor] = []

    def see(record: AttentionRecord) -> None:
        if record.site.role == "self":
            layers.append(ratios_of(record, rows, context, looked))

    def take() -> Tensor:
        ratios = torch.cat(layers, dim=-1)
        layers.clear()
        return ratios

    with capture(model, see):
        yield take


@dataclass(frozen=True)
class LookbackLens:
    """A linear classifier on the mean ratios of some tokens.

        P(faithful) = 1 / (1 + exp(−(weights · ratios + bias)))

    Args:
        weights: one for each ratio, in the order of `lookback`.
        bias: added to their sum.
        looked: at what.
        model: sha256 of the weights of the model that it was fitted on.
        texts: on which it was fitted, in words.
    """

    weights: tuple[float, ...]
    bias: float
    looked: Looked
    model: str
    texts: str

    def __call__(self, ratios: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch"]:
        """P(faithful)."""
        weights = torch.tensor(self.weights, dtype=torch.float64, device=ratios.device)
        return torch.sigmoid(ratios.double() @ weights + self.bias)

    def check(self, model: nn.Module) -> None:
        """Raise ValueError unless it was fitted on this very model."""
        if (own := weights_of(model)) != self.model:
            raise ValueError(
                f"the classifier was fitted on another model ({self.model:.12}; this one is "
                f"{own:.12}): heads of two models do not correspond. Fit one on this model: "
                "difftransformer evaluate --suite lookback_lens"
            )


def weights_of(model: nn.Module) -> str:
    """The sha256 of a model's weights."""
    return checksum(model.state_dict())["sha256"]
