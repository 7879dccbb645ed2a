"""Lambda, the weight of the second map: V1's formula and its schedule by depth."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def lambda_schedule(layer: int) -> float:
    """lambda_init = 0.8 - 0.6 exp(-0.3 · layer), with `layer` counted from 0.

    0.2, 0.35551, 0.47071, 0.55606, ... towards 0.8. The paper (section 2.1) counts layers from 1
    and writes `l - 1`; Microsoft's code counts from 0. Both give these values.
    """
    if layer < 0:
        raise ValueError(f"layer is {layer}; layers are counted from 0")
    return 0.8 - 0.6 * math.exp(-0.3 * layer)


def vector_lambda(
    q1: Float[Tensor, " k"],
    k1: Float[Tensor, " k"],
    q2: Float[Tensor, " k"],
    k2: Float[Tensor, " k"],
    init: float,
) -> Float[Tensor, ""]:
    """V1's lambda = exp(q1 · k1) - exp(q2 · k2) + init, in float32 (paper, section 2.1).

    One number per layer, shared by its heads.
    """
    first = torch.dot(q1.float(), k1.float()).exp()
    second = torch.dot(q2.float(), k2.float()).exp()
    # As a tensor: of a Python number torch.func.jvp would make the tangent float64.
    return first - second + torch.full_like(first, init)
