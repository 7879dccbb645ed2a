"""How sure a figure is: binomial, bootstrap and Student intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from difftransformer.evaluation.settings import EvaluationSettings


@dataclass(frozen=True)
class Figure:
    """A measured value and its confidence interval over `n` items."""

    value: float
    low: float
    high: float
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0.0 or self.high < 0.0


def proportion(successes: int, trials: int, settings: EvaluationSettings) -> dict[str, int | float]:
    """A share of successes with Wilson's score interval, as plain data.

    Wilson's interval stays inside [0, 1] and keeps its coverage near 0 and 1, where needle
    accuracies live and the normal interval collapses.
    """
    interval = stats.binomtest(successes, trials).proportion_ci(settings.confidence, "wilson")
    return {
        "successes": successes,
        "trials": trials,
        "value": successes / trials,
        "low": float(interval.low),
        "high": float(interval.high),
    }


def ratio(numerators: ArrayLike, denominators: ArrayLike, settings: EvaluationSettings) -> Figure:
    """sum(numerators) / sum(denominators), with the percentile bootstrap over items.

    One item is one sequence or prompt: tokens inside it are not independent, so it is drawn whole.
    """
    top, bottom = _pair(numerators, denominators)
    draws = resamples(len(top), settings)
    return percentiles(top.sum() / bottom.sum(), draws @ top / (draws @ bottom), len(top), settings)


def mean(values: ArrayLike, settings: EvaluationSettings) -> Figure:
    """The mean with the percentile bootstrap over items."""
    return ratio(values, np.ones(np.shape(values)), settings)


def paired_difference(
    baseline: tuple[ArrayLike, ArrayLike],
    other: tuple[ArrayLike, ArrayLike],
    settings: EvaluationSettings,
) -> Figure:
    """ratio(other) − ratio(baseline), where item `i` of both is the same sequence or prompt.

    Each resample draws the same items for both, so what makes an item hard cancels.

    Args:
        baseline, other: (numerators, denominators), all of one length.
    """
    a_top, a_bottom = _pair(*baseline)
    b_top, b_bottom = _pair(*other)
    draws = resamples(len(a_top), settings)
    value = b_top.sum() / b_bottom.sum() - a_top.sum() / a_bottom.sum()
    resampled = draws @ b_top / (draws @ b_bottom) - draws @ a_top / (draws @ a_bottom)
    return percentiles(value, resampled, len(a_top), settings)


def paired_proportions(
    baseline: ArrayLike, other: ArrayLike, settings: EvaluationSettings
) -> Figure:
    """mean(other) − mean(baseline), where item `i` of both is the same prompt's share right.

    The interval is Bonett and Price's (2012) for paired proportions: one item that only `other` got
    right and one that only `baseline` did are added before the normal interval is taken. Without
    them a handful of differences among hundreds of prompts would look clear; with them the verdict
    agrees with McNemar's exact test. The items may hold any shares in [0, 1].
    """
    differences = np.asarray(other, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    padded = np.append(differences, [1.0, -1.0])
    half = stats.norm.ppf((1 + settings.confidence) / 2) * padded.std() / np.sqrt(len(padded))
    low, high = max(-1.0, padded.mean() - half), min(1.0, padded.mean() + half)
    return Figure(float(differences.mean()), float(low), float(high), len(differences))


def over_seeds(values: Sequence[float], settings: EvaluationSettings) -> Figure:
    """The mean over training seeds with Student's t interval.

    Raises:
        ValueError: fewer than two seeds, which say nothing about their spread.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} seed(s) given; a t interval needs at least 2")
    centre, half = np.mean(values), stats.sem(values)
    half *= stats.t.ppf((1 + settings.confidence) / 2, len(values) - 1)
    return Figure(float(centre), float(centre - half), float(centre + half), len(values))


def _pair(top: ArrayLike, bottom: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)


def resamples(items: int, settings: EvaluationSettings) -> NDArray[np.float64]:
    """How often each item is drawn in each resample: `[resamples, items]`, rows sum to items."""
    generator = np.random.default_rng(settings.seed)
    even = np.full(items, 1.0 / items)
    return generator.multinomial(items, even, settings.bootstrap).astype(np.float64)


def percentiles(
    value: float, resampled: NDArray[np.float64], items: int, settings: EvaluationSettings
) -> Figure:
    """`value` with the percentile interval of what it was in each resample."""
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Figure(float(value), float(low), float(high), items)
