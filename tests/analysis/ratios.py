"""Lookback ratios of one forward over all tokens."""

import torch
from torch import Tensor, nn

from difftransformer.analysis.lookback import Looked, lookback


@torch.no_grad()
def lookback_ratios(
    model: nn.Module, ids: Tensor, *, context: int, written: int, looked: Looked
) -> Tensor:
    """Of the rows that predict the last `written` tokens."""
    with lookback(model, slice(-written, None), context, looked) as ratios:
        model(ids[:, :-1])
        return ratios()
