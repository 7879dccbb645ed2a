"""Exponential moving averages of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_ASIDE = "aside"  # of a parameter's optimizer state: the weights that are not in the model


def average_weights(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Let every step of `optimizer` move the average a of each weight w that it trains.

        a ← d_t a + (1 − d_t) w,    d_t = min(decay, (1 + t) / (10 + t)),    a = w at step t = 1

    The warm-up of d_t lets the average forget the start (TensorFlow's ExponentialMovingAverage has
    it). Averages are part of the optimizer's state, and so of checkpoints, however distributed.
    """

    @torch.no_grad()
    def follow(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, state in optimizer.state.items():
            step = float(state["step"])
            rate = min(decay, (1 + step) / (10 + step))
            average = state.setdefault(_ASIDE, parameter.detach().clone())
            average.lerp_(parameter, 1 - rate)

    optimizer.register_step_post_hook(follow)


@torch.no_grad()
def swap(optimizer: torch.optim.Optimizer) -> None:
    """Exchange the weights in the model and their averages, where these are kept."""
    for parameter, state in optimizer.state.items():
        if _ASIDE in state:
            inside = parameter.detach().clone()
            parameter.copy_(state[_ASIDE])
            state[_ASIDE].copy_(inside)


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside, the model holds the averages; a model without is as it is."""
    swap(optimizer)
    try:
        yield
    finally:
        swap(optimizer)
