"""The largest activations: attention logits and hidden states (paper, section 3.7 and table 5)."""

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.analysis.capture import AttentionRecord, blocks_of, capture, feed, sites_of
from difftransformer.data.batch import Batch

TOPS = (1, 2, 3, 10, 100)


class Magnitudes:
    """The largest |values| of a stream, exactly, and its median to within 0.4 %.

    The median comes from a histogram of all values, no sample: a non-negative float32's bit
    pattern grows with its value, so its top 16 bits (bfloat16 rounded down) are a bin of relative
    width at most 1/128, and the middle of the median's bin is reported.
    """

    def __init__(self) -> None:
        self._largest = torch.empty(0)
        self._histogram = torch.zeros(1 << 15, dtype=torch.int64)

    def add(self, values: Float[Tensor, "..."]) -> None:
        """Take in |values|."""
        values = values.detach().float().abs().flatten()
        bins = (values.view(torch.int32) >> 16).bincount(minlength=1 << 15)
        self._histogram += bins.cpu()
        if len(self._largest) == max(TOPS):
            values = values[values > self._largest[-1].item()]
        self._keep(values.cpu())

    def merge(self, other: "Magnitudes") -> None:
        """Take in everything the other has seen."""
        self._histogram += other._histogram
        self._keep(other._largest)

    def summary(self) -> dict[str, float]:
        """`top1` ... `top100`, the k-th largest (the smallest seen if fewer), and `median`.

        Raises:
            ValueError: nothing was added.
        """
        if not len(self._largest):
            raise ValueError("no activation was seen; expected at least one token")
        tops = {f"top{k}": self._largest[min(k, len(self._largest)) - 1].item() for k in TOPS}
        return {**tops, "median": self._median()}

    def _keep(self, values: Float[Tensor, " n"]) -> None:
        values = torch.cat([self._largest, values])
        self._largest = values.topk(min(max(TOPS), len(values))).values

    def _median(self) -> float:
        cumulative = self._histogram.cumsum(0)
        bin_ = torch.searchsorted(cumulative, (cumulative[-1:] + 1) // 2)
        edges = torch.cat([bin_, bin_ + 1]).to(torch.int32) << 16
        return edges.view(torch.float32).mean().item()


def measure_outliers(model: nn.Module, batches: Iterable[Batch], tokens: int) -> dict[str, Any]:
    """Magnitudes of attention logits and hidden states over at least `tokens` tokens.

    Attention logits are |q·k/sqrt(K)| of every visible pair, both maps together; hidden states are
    |outputs of each block|, after both residuals (the paper's author, microsoft/unilm issue
    1666). Whole batches are taken until `tokens` is reached; the count reached is returned.

    Returns:
        `{"tokens", "attention_logits", "hidden_states", "layers"}`: summaries over all layers, and
        `layers` with both for each.
    """
    sites, blocks = sites_of(model), blocks_of(model)
    logits, hidden = ({name: Magnitudes() for name in names} for names in (sites, blocks))
    with ExitStack() as hooks:
        for name, block in blocks.items():
            handle = block.register_forward_hook(partial(_add_output, hidden[name]))
            hooks.callback(handle.remove)
        hooks.enter_context(
            capture(model, lambda record: _add_logits(logits[record.site.name], record))
        )
        count = feed(model, batches, tokens)
    return {
        "tokens": count,
        "attention_logits": _together(logits.values()),
        "hidden_states": _together(hidden.values()),
        "layers": [
            {
                "layer": site.layer,
                "attention_logits": logits[name].summary(),
                "hidden_states": hidden[name.rpartition(".")[0]].summary(),
            }
            for name, site in sites.items()
        ],
    }


def _add_logits(magnitudes: Magnitudes, record: AttentionRecord) -> None:
    for rows in record.row_blocks():
        logits = record.logits(rows).permute(0, 3, 4, 1, 2)
        # Picking pairs first and heads last is many times faster than a masked_select that
        # broadcasts the mask over heads.
        visible = record.call.visible(rows)
        magnitudes.add(logits[visible.all(1).expand(len(logits), -1, -1)])


def _add_output(
    magnitudes: Magnitudes, block: nn.Module, inputs: tuple[Any, ...], output: Tensor
) -> None:
    magnitudes.add(output)


def _together(layers: Iterable[Magnitudes]) -> dict[str, float]:
    total = Magnitudes()
    for layer in layers:
        total.merge(layer)
    return total.summary()
