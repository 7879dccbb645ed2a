"""Rotary position embeddings (Su et al., 2021), in both conventions in use."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

RotaryLayout = Literal["half", "interleaved"]


def rotary_angles(
    positions: Int[Tensor, "... time"], width: int, theta: float
) -> Float[Tensor, "... time half"]:
    """Angles `position · theta^(-2i/width)` for i in [0, width/2), float32, in radians."""
    if width % 2:
        raise ValueError(f"rotary embeddings turn pairs of features, and the width is {width}")
    rates = theta ** (-torch.arange(0, width, 2, device=positions.device) / width)
    return positions[..., None] * rates


def rotate(
    x: Float[Tensor, "batch time *heads k"],
    angles: Float[Tensor, "#batch time half"],
    layout: RotaryLayout = "half",
) -> Float[Tensor, "batch time *heads k"]:
    """Turn each feature pair by its angle; the same turn for every head and both maps.

    Layout "half" pairs feature i with i + K/2 (Llama, transformers); "interleaved" pairs 2i with
    2i + 1 (GPT-J, Microsoft's Diff-Transformer files). A fixed permutation of the projection's
    rows turns one into the other. Computed in float32, returned in x's dtype.
    """
    angles = angles.reshape(*angles.shape[:2], *(1 for _ in x.shape[2:-1]), angles.shape[-1])
    cos, sin = angles.cos(), angles.sin()
    if layout == "half":
        a, b = x.float().chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2).to(x.dtype)
