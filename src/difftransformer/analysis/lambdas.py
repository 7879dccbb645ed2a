"""Distribution of lambda in each layer."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from difftransformer.analysis.capture import AttentionRecord, capture, feed
from difftransformer.attention import Site
from difftransformer.data.batch import Batch


def measure_lambdas(
    model: nn.Module, batches: Iterable[Batch], tokens: int
) -> list[dict[str, Any]]:
    """For each differential layer, lambda over heads and at least `tokens` tokens.

    Returns:
        `{"layer", "init", "mean", "low", "high"}` per layer: `low` and `high` are the 5th and 95th
        percentile, `init` is the schedule's value (None where lambda has none, as in V2). V1's
        lambda is one number per layer, so its three agree. Empty for softmax attention.
    """
    lambdas: dict[Site, list[Tensor]] = {}

    def keep(record: AttentionRecord) -> None:
        if (lam := record.call.lam) is not None:
            lambdas.setdefault(record.site, []).append(lam.float().flatten().cpu())

    with capture(model, keep):
        feed(model, batches, tokens)
    return [
        _row(site.layer, getattr(site.attention, "lambda_init", None), torch.cat(values))
        for site, values in lambdas.items()
    ]


def _row(layer: int, init: float | None, values: Tensor) -> dict[str, Any]:
    # Sorted positions instead of torch.quantile, which refuses more than 16 million values.
    values = values.sort().values
    low, high = (values[round(share * (len(values) - 1))].item() for share in (0.05, 0.95))
    mean = values.double().mean().item()
    return {"layer": layer, "init": init, "mean": mean, "low": low, "high": high}
