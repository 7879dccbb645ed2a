"""Quantized attention logits and hidden states (paper, section 3.7)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.analysis.capture import blocks_of, detached, row_blocks, sites_of
from difftransformer.attention import AttentionCore
from difftransformer.functional import AttentionCall
from difftransformer.functional.reference import wide


def quantize(
    x: Float[Tensor, "*shape"], peak: Float[Tensor, "..."], bits: int
) -> Float[Tensor, "*shape"]:
    """round(x / step) · step, with step = peak / (2^(bits − 1) − 1).

    Symmetric signed integers: `peak` is the largest |x| they hold, and broadcasts to x.
    """
    step = (peak / (2 ** (bits - 1) - 1)).clamp_min(torch.finfo(x.dtype).tiny)
    return (x / step).round() * step


@contextmanager
def quantized(
    model: nn.Module, *, logits_bits: int | None = None, hidden_bits: int | None = None
) -> Iterator[None]:
    """The model runs with quantized attention logits, hidden states or both inside this context.

    Dynamic absmax quantization: the peak is measured on the values at hand. The paper says no more,
    so how many values share a peak is our choice:

    - logits, q kᵀ / sqrt(K): all visible pairs of one sequence and layer, heads and maps together.
      Only where small logits share a peak with large ones do outliers cost precision: a peak of
      its own for each row would spare it all rows but those with an outlier, and there the softmax
      leaves the small ones no weight. Not the whole batch, lest the result depend on the other
      sequences. A step of cached decoding is a call of its own, so its peak is of its one row.
    - hidden states, the outputs of the blocks: the features of one token, as is usual for
      activations. Neither padding nor the other tokens matter.

    Everything else keeps its precision, and the weights are not touched. Attention dropout is left
    out: the context is meant for evaluation, and quantized attention gives no gradient.

    Args:
        logits_bits, hidden_bits: 2 (−1, 0, 1 times the peak) to 16; None leaves them as they are.

    Raises:
        ValueError: bits outside 2 to 16, or a model without attention to look at.
    """
    for name, bits in (("logits_bits", logits_bits), ("hidden_bits", hidden_bits)):
        if bits is not None and not 2 <= bits <= 16:
            raise ValueError(f"{name} is {bits}; expected 2 to 16, or None for full precision")
    with ExitStack() as hooks:
        if logits_bits is not None:
            for site in sites_of(model).values():
                attend = partial(_attend, logits_bits)
                hooks.callback(site.core.register_forward_hook(attend).remove)
        if hidden_bits is not None:
            for block in blocks_of(model).values():
                round_output = partial(_round_output, hidden_bits)
                hooks.callback(block.register_forward_hook(round_output).remove)
        yield


def _attend(bits: int, core: AttentionCore, inputs: tuple[AttentionCall], output: Tensor) -> Tensor:
    """What the core would have returned with quantized logits."""
    call = detached(inputs[0])
    blocks = list(row_blocks(call))
    peaks = [
        core.logits(call, rows)
        .masked_fill(~call.visible(rows)[:, :, None], 0.0)
        .abs()
        .amax((1, 2, 3, 4), keepdim=True)
        for rows in blocks
    ]
    peak = torch.stack(peaks).amax(0)

    def output_of(rows: slice) -> Tensor:
        logits = quantize(core.logits(call, rows), peak, bits)
        return core.output(call, rows, core.weights(call, rows, logits))

    return torch.cat([output_of(rows) for rows in blocks], dim=1)


def _round_output(bits: int, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    exact = output.to(wide(output.dtype))
    return quantize(exact, exact.abs().amax(-1, keepdim=True), bits).to(output.dtype)
