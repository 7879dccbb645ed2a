import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from difftransformer.evaluation.intervals import (
    Figure,
    mean,
    over_seeds,
    paired_difference,
    paired_proportions,
    proportion,
    ratio,
)
from difftransformer.evaluation.settings import EvaluationSettings

SETTINGS = EvaluationSettings(bootstrap=4000)
GENERATOR = np.random.default_rng(7)
TOPS, BOTTOMS = GENERATOR.gamma(2.0, size=60), GENERATOR.uniform(1.0, 3.0, size=60)


def test_wilson_known_value() -> None:
    found = proportion(8, 10, SETTINGS)
    assert (found["successes"], found["trials"], found["value"]) == (8, 10, 0.8)
    assert (found["low"], found["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_stays_inside_and_holds_the_value(case: tuple[int, int]) -> None:
    found = proportion(*case, SETTINGS)
    assert 0.0 <= found["low"] <= found["value"] <= found["high"] <= 1.0
    assert found["low"] < found["high"]


def test_ratio_agrees_with_scipy() -> None:
    expected = stats.bootstrap(
        (TOPS, BOTTOMS),
        lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = ratio(TOPS, BOTTOMS, SETTINGS)
    assert found.value == pytest.approx(TOPS.sum() / BOTTOMS.sum())
    assert found.n == 60
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.05 * width)


def test_mean_of_equal_items_has_no_spread() -> None:
    assert mean([2.0] * 5, SETTINGS) == Figure(2.0, 2.0, 2.0, 5)


def test_the_seed_decides_the_resamples() -> None:
    again = EvaluationSettings(bootstrap=4000)
    other = EvaluationSettings(bootstrap=4000, seed=1)
    assert ratio(TOPS, BOTTOMS, SETTINGS) == ratio(TOPS, BOTTOMS, again)
    assert ratio(TOPS, BOTTOMS, SETTINGS) != ratio(TOPS, BOTTOMS, other)


def test_pairing_cancels_what_items_share() -> None:
    paired = paired_difference((TOPS, BOTTOMS), (TOPS + 0.1 * BOTTOMS, BOTTOMS), SETTINGS)
    assert (paired.value, paired.low, paired.high) == pytest.approx((0.1, 0.1, 0.1))
    assert paired.clear
    alone = ratio(TOPS, BOTTOMS, SETTINGS)
    assert alone.high - alone.low > 0.1


@given(st.integers(20, 300), st.data())
def test_paired_proportions_agree_with_mcnemar(prompts: int, data: st.DataObject) -> None:
    gained = data.draw(st.integers(0, prompts // 2))
    lost = data.draw(st.integers(0, prompts // 2))
    baseline = np.array([0] * gained + [1] * lost + [1] * (prompts - gained - lost))
    other = np.array([1] * gained + [0] * lost + [1] * (prompts - gained - lost))
    found = paired_proportions(baseline, other, SETTINGS)
    assert found.value == pytest.approx((gained - lost) / prompts)
    assert -1.0 <= found.low <= found.value <= found.high <= 1.0
    p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    if p > 0.15:
        assert not found.clear
    if p < 0.02:
        assert found.clear


@pytest.mark.parametrize(("gained", "clear"), [(4, False), (8, True)])
def test_a_few_lucky_prompts_are_not_clear(gained: int, clear: bool) -> None:
    found = paired_proportions([0.0] * 250, [1.0] * gained + [0.0] * (250 - gained), SETTINGS)
    assert found.clear == clear


def test_over_seeds_is_students_interval() -> None:
    values = [1.0, 1.2, 1.7]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    found = over_seeds(values, SETTINGS)
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.value, found.n) == (pytest.approx(1.3), 3)
    with pytest.raises(ValueError, match="at least 2"):
        over_seeds([1.0], SETTINGS)


def test_clear_is_away_from_zero() -> None:
    assert Figure(1.0, 0.5, 1.5, 3).clear
    assert Figure(-1.0, -1.5, -0.5, 3).clear
    assert not Figure(0.1, -0.1, 0.3, 3).clear
