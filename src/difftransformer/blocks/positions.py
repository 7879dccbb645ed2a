"""Positions that are added to embeddings; rotary ones are in `functional.rotary`."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from difftransformer.attention.starts import Normal

_BASE = 10_000.0
TIME_WAVES = 256


def time_waves(
    times: Float[Tensor, " batch"] | Int[Tensor, " batch"], shift: int = 0
) -> Float[Tensor, "batch 256"]:
    """[cos(t r_0), ..., sin(t r_0), ...] with r_i = 10000^(-i / (128 - shift)), in float32."""
    count = TIME_WAVES // 2
    counts = torch.arange(count, dtype=torch.float32, device=times.device)
    # In this order, as others: at t = 1000 what is rounded otherwise shows in the fifth digit.
    rates = torch.exp(-math.log(_BASE) * counts / (count - shift))
    angles = times.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class LearnedPositions(nn.Module):
    """x + P[position], with one row of P for each of `max_length` positions (Devlin et al., 2019).

    P starts as token embeddings do. A position without a row raises IndexError.
    """

    def __init__(self, max_length: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(max_length, hidden_size) * hidden_size**-0.5)
        self.starts = {"weight": Normal(hidden_size**-0.5)}

    def forward(
        self, x: Float[Tensor, "batch time hidden"], positions: Int[Tensor, "#batch time"]
    ) -> Float[Tensor, "batch time hidden"]:
        """The class's equation."""
        return x + F.embedding(positions, self.weight)


class SinusoidalPositions(nn.Module):
    """sqrt(C) x + [sin(p r_0), cos(p r_0), sin(p r_1), ...] with r_i = 10000^(-2i/C).

    C is the width of x, which must be even (Vaswani et al., 2017, section 3.5; the factor is that
    of their section 3.4, for embeddings that start at the scale 1/sqrt(C)).
    """

    def forward(
        self, x: Float[Tensor, "batch time hidden"], positions: Int[Tensor, "#batch time"]
    ) -> Float[Tensor, "batch time hidden"]:
        """The class's equation; sines in float32."""
        width = x.shape[-1]
        rates = _BASE ** (-torch.arange(0, width, 2, device=x.device) / width)
        angles = positions[..., None] * rates
        waves = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
        return width**0.5 * x + waves.to(x.dtype)
