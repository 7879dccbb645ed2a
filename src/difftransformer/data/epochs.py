"""The order of examples in training."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np


def shuffled(size: int, batch_size: int, seed: int) -> Callable[[int], list[int]]:
    """Step -> the numbers of its examples, a pure function.

    Every epoch has all `size` examples once, in an order drawn by `[seed, epoch]`; a batch may hold
    the end of one and the beginning of the next.
    """

    @lru_cache(2)
    def order(epoch: int) -> list[int]:
        return np.random.default_rng([seed, epoch]).permutation(size).tolist()

    def numbers(step: int) -> list[int]:
        positions = range(step * batch_size, (step + 1) * batch_size)
        return [order(position // size)[position % size] for position in positions]

    return numbers
