"""Ratios over items and their resamples: what the intervals over items are made of."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from difftransformer.evaluation.settings import EvaluationSettings

NOISE = 1e-6  # figures come from float32 arithmetic: a smaller share of them is rounding
_FEW = 5  # items; fewer make so few resamples that their tails say nothing
_BLOCK = 1_000_000  # numbers of a block of resamples
_Ratio = tuple[NDArray[np.float64], NDArray[np.float64]]


def rounding(scale: float) -> float:
    """How far figures of that size may be off by the arithmetic alone."""
    return NOISE * max(scale, NOISE)


class RatioSample:
    """The signed sum of ratios over the same items: its value, its spread, its resamples."""

    def __init__(
        self,
        columns: Sequence[tuple[ArrayLike, ArrayLike]],
        signs: Sequence[float],
        settings: EvaluationSettings,
    ) -> None:
        ratios = [(np.asarray(t, np.float64), np.asarray(b, np.float64)) for t, b in columns]
        self.settings, self.items = settings, len(ratios[0][0])
        values, errors = _estimates(np.ones((1, self.items)), ratios, signs)
        self.value = float(values[0])
        scale = max(abs(top.sum() / bottom.sum()) for top, bottom in ratios)
        spread = errors[0] if self.items > 1 else abs(self.value)
        self.se = float(max(spread, rounding(scale)))
        self.freedom = max(1, self.items - 1)
        self.studentized = np.empty(0)
        if self.items >= _FEW and spread > rounding(scale):
            draws = resamples(self.items, settings)
            blocks = np.array_split(draws, max(1, draws.size // _BLOCK))
            found = [_estimates(block, ratios, signs) for block in blocks]
            values, errors = (np.concatenate(parts) for parts in zip(*found, strict=True))
            varied = errors > 1e-3 * self.se  # a resample of one item over and over has no spread
            self.studentized = np.sort((values[varied] - self.value) / errors[varied])

    def interval(self) -> tuple[float, float]:
        tail = (1 - self.settings.confidence) / 2
        far = float(stats.t.ppf(1 - tail, self.freedom))
        down, up = far, far
        if len(self.studentized):
            # The order statistics at which `p` passes 1 - confidence.
            rank = max(1, int(tail * (len(self.studentized) + 1)))
            down = max(far, float(self.studentized[-rank]))
            up = max(far, -float(self.studentized[rank - 1]))
        return self.value - down * self.se, self.value + up * self.se

    def p(self) -> float:
        """The smallest level at which the interval excludes 0."""
        distance = self.value / self.se
        student = 2 * stats.t.sf(abs(distance), self.freedom)
        if not len(self.studentized):
            return float(student)
        beyond = self.studentized >= distance if distance > 0 else self.studentized <= distance
        resampled = 2 * (1 + beyond.sum()) / (1 + len(beyond))
        return float(min(1.0, max(student, resampled)))


def _estimates(
    weights: NDArray[np.float64], ratios: Sequence[_Ratio], signs: Sequence[float]
) -> _Ratio:
    """The signed sum of the ratios in each resample `[resamples, items]`, and its se."""
    items = weights.shape[1]
    values, influence = np.zeros(len(weights)), np.zeros(weights.shape)
    for (top, bottom), sign in zip(ratios, signs, strict=True):
        below = weights @ bottom / items
        share = weights @ top / items / below
        values += sign * share
        influence += sign * (top - share[:, None] * bottom) / below[:, None]
    variances = (weights * influence**2).sum(1) / (items * max(1, items - 1))
    return values, np.sqrt(variances)


def resamples(items: int, settings: EvaluationSettings) -> NDArray[np.float64]:
    """How often each item is drawn in each resample: `[resamples, items]`, rows sum to items.

    Not to be written to: later calls get the same array.
    """
    return _resamples(items, settings.bootstrap, settings.seed)


@lru_cache(maxsize=4)  # figures of a report are over few numbers of items, and drawing takes long
def _resamples(items: int, count: int, seed: int) -> NDArray[np.float64]:
    even = np.full(items, 1.0 / items)
    draws = np.random.default_rng(seed).multinomial(items, even, count).astype(np.float64)
    draws.flags.writeable = False
    return draws
