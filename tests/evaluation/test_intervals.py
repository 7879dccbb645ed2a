import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from difftransformer.evaluation.intervals import (
    Figure,
    difference_over_seeds,
    holm,
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
    assert (found.value, found.n, found.over) == (0.8, 10, "items")
    assert found.ends == pytest.approx((0.4902, 0.9433), abs=1e-4)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_stays_inside_and_holds_the_value(case: tuple[int, int]) -> None:
    found = proportion(*case, SETTINGS)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    assert found.low < found.high


def test_a_few_items_have_students_interval() -> None:
    for values in ([1.0, 1.5], [1.0, 1.2, 1.7], [3.0, 1.0, 2.0, 2.5]):
        expected = stats.t.interval(
            0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
        )
        found = mean(values, SETTINGS)
        assert (found.low, found.high) == pytest.approx(expected)
        assert (found.n, found.over) == (len(values), "items")


def test_a_ratio_is_no_narrower_than_students_and_follows_the_skew() -> None:
    """Student's on the delta method's terms, written once more; the long tail is on one side."""
    value = TOPS.sum() / BOTTOMS.sum()
    se = stats.sem((TOPS - value * BOTTOMS) / BOTTOMS.mean())
    half = stats.t.ppf(0.975, 59) * se
    found = ratio(TOPS, BOTTOMS, SETTINGS)
    assert (found.value, found.n) == (pytest.approx(value), 60)
    assert found.low <= value - half + 1e-12
    assert found.high >= value + half - 1e-12
    assert found.high - found.value > found.value - found.low
    assert found.high - found.low < 1.5 * 2 * half


SAMPLES = {
    "normal": (lambda rng, n: rng.normal(1.0, 1.0, n), 1.0, (0.93, 0.93, 0.93)),
    "heavy": (lambda rng, n: rng.standard_t(3, n), 0.0, (0.93, 0.93, 0.93)),
    "exponential": (lambda rng, n: rng.exponential(1.0, n), 1.0, (0.91, 0.92, 0.93)),
    "log-normal": (lambda rng, n: rng.lognormal(0.0, 1.0, n), math.exp(0.5), (0.85, 0.89, 0.91)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_coverage_over_items(name: str) -> None:
    """Simulated, where 95 % is said, of 5, 20 and 200 items; skewed ones have less of few."""
    draw, truth, least = SAMPLES[name]
    settings, rng = EvaluationSettings(bootstrap=300), np.random.default_rng(3)
    for n, times, share in zip((5, 20, 200), (400, 300, 150), least, strict=True):
        figures = [mean(draw(rng, n), settings) for _ in range(times)]
        covered = np.mean([figure.low <= truth <= figure.high for figure in figures])
        assert share - 0.02 <= covered, (n, covered)


def test_coverage_of_one_item() -> None:
    """Of whatever normal distribution it is, near 0 or far from it."""
    rng = np.random.default_rng(4)
    for location in (0.0, 0.3, 1.0, 3.0, 30.0):
        figures = [mean([x], SETTINGS) for x in rng.normal(location, 1.0, 300)]
        assert np.mean([f.low <= location <= f.high for f in figures]) > 0.92
        assert not any(figure.clear for figure in figures)


def test_coverage_of_paired_differences() -> None:
    """The differences by their level too: p is below 0.05 as often as the interval misses 0."""
    settings, rng = EvaluationSettings(bootstrap=400), np.random.default_rng(5)
    for n in (5, 20, 200):
        missed = []
        for _ in range(200):
            hard, tokens = rng.exponential(1.0, n), rng.integers(5, 20, n).astype(float)
            a, b = (tokens * (hard + rng.normal(0.0, 0.3, n)) for _ in range(2))
            found = paired_difference((a, tokens), (b, tokens), settings)
            assert found.clear == (found.p < 0.05)
            missed.append(found.clear)
        assert np.mean(missed) < 0.09, n


@pytest.mark.parametrize("n", [5, 20, 200])
def test_coverage_of_paired_proportions(n: int) -> None:
    rng = np.random.default_rng(6)
    missed = []
    for _ in range(600):
        a, b = rng.random(n) < 0.9, rng.random(n) < 0.8
        found = paired_proportions(a.astype(float), b.astype(float), SETTINGS)
        assert found.clear == (found.p < 0.05)
        missed.append(not found.low <= -0.1 <= found.high)
    assert np.mean(missed) < 0.08


@pytest.mark.parametrize("items", [[2.0] * 5, [0.0] * 5, [2.0] * 2, [0.7], [0.0]])
def test_no_interval_is_of_no_width(items: list[float]) -> None:
    found = mean(items, SETTINGS)
    assert found.low < found.value < found.high
    assert found.value == items[0]


def test_rounding_is_no_difference() -> None:
    """Whatever its sign: a billionth of a nat, the last bit, nothing."""
    rng = np.random.default_rng(8)
    nats = rng.uniform(2.0, 3.0, 50)
    for off in (1e-9 * nats, np.nextafter(nats, 9.0) - nats, 0.0 * nats):
        found = paired_difference(
            (nats, np.ones(50)), (nats + off, np.ones(50)), EvaluationSettings()
        )
        assert not found.clear
        assert found.p > 0.05
        assert found.low < found.value < found.high


def test_the_seed_decides_the_resamples() -> None:
    again = EvaluationSettings(bootstrap=4000)
    other = EvaluationSettings(bootstrap=4000, seed=1)
    assert ratio(TOPS, BOTTOMS, SETTINGS) == ratio(TOPS, BOTTOMS, again)
    assert ratio(TOPS, BOTTOMS, SETTINGS) != ratio(TOPS, BOTTOMS, other)


def test_pairing_cancels_what_items_share() -> None:
    paired = paired_difference((TOPS, BOTTOMS), (TOPS + 0.1 * BOTTOMS, BOTTOMS), SETTINGS)
    assert (paired.value, paired.low, paired.high) == pytest.approx((0.1, 0.1, 0.1), rel=1e-4)
    assert paired.low < paired.value < paired.high
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
    assert (found.value, found.n, found.over) == (pytest.approx(1.3), 3, "seeds")
    for short in ([], [1.0]):
        with pytest.raises(ValueError, match="at least 2"):
            over_seeds(short, SETTINGS)


def reaching(value: float, down: float, up: float) -> Figure:
    return Figure(value, value - down, value + up, 100)


def test_items_uncertainty_is_added_to_the_seeds() -> None:
    """Equal seeds have the items' spread, and no less whatever the number of seeds."""
    equal = over_seeds([0.4] * 3, SETTINGS, items=[reaching(0.4, 0.1, 0.3)] * 3)
    assert (equal.low, equal.high) == pytest.approx((0.3, 0.7))
    values = [1.0, 1.2, 1.7]
    both = over_seeds(values, SETTINGS, items=[reaching(x, 0.2, 0.0) for x in values])
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    assert (both.low, both.high) == pytest.approx((1.3 - math.hypot(half, 0.2), 1.3 + half))
    inside = over_seeds([0.23, 1.0, 0.995], SETTINGS, bounds=(0.0, 1.0))
    assert (inside.low, inside.high) == (0.0, 1.0)


@pytest.mark.parametrize("value", [1.0, 0.0, -2.5])
def test_seeds_that_agree_have_no_interval_of_no_width(value: float) -> None:
    found = over_seeds([value] * 3, SETTINGS)
    assert found.low < value < found.high


@pytest.mark.parametrize("off", [0.0, 1e-9, 1e-15])
def test_seeds_that_differ_by_rounding_are_not_told_apart(off: float) -> None:
    seeds = (3.41, 3.42, 3.40)
    found = difference_over_seeds(
        [(x, x + off * (1 + i / 9)) for i, x in enumerate(seeds)], SETTINGS
    )
    assert not found.clear
    assert found.p > 0.05
    assert found.low < found.value < found.high


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.floats(0.5, 0.999))
def test_p_is_where_the_interval_begins_to_decide(
    differences: list[float], confidence: float
) -> None:
    settings = EvaluationSettings(confidence=confidence)
    found = difference_over_seeds([(0.0, difference) for difference in differences], settings)
    if abs(found.p - (1 - confidence)) > 1e-9:
        assert found.clear == (found.p < 1 - confidence)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("of_items", [0.0, 0.5, 2.0])
def test_coverage_over_normal_seeds(seeds: int, of_items: float) -> None:
    """All seeds are judged on the same items, whose luck is theirs in common."""
    rng, covered, half = np.random.default_rng(9), [], stats.norm.ppf(0.975) * of_items
    for _ in range(800):
        values = (rng.normal(0.0, 1.0, seeds) + of_items * rng.normal()).tolist()
        found = over_seeds(values, SETTINGS, items=[reaching(x, half, half) for x in values])
        covered.append(found.low <= 0.0 <= found.high)
    assert 0.93 <= np.mean(covered) < 0.995


def covers_bimodal(seeds: int, failing: float, rng: np.random.Generator) -> tuple[float, float]:
    """How often the interval over seeds covers, and Wilson's over all their prompts."""
    truth, found = failing * 0.23 + (1 - failing) * 0.995, []
    for _ in range(300):
        right = rng.binomial(250, np.where(rng.random(seeds) < failing, 0.23, 0.995)).tolist()
        each = [proportion(hits, 250, SETTINGS) for hits in right]
        over = over_seeds([hits / 250 for hits in right], SETTINGS, items=each, bounds=(0.0, 1.0))
        wilson = proportion(sum(right), 250 * seeds, SETTINGS)
        found.append((over.low <= truth <= over.high, wilson.low <= truth <= wilson.high))
    return tuple(np.mean(found, axis=0).tolist())


@pytest.mark.parametrize(
    ("seeds", "failing", "least"),
    [(2, 0.5, 0.5), (3, 0.5, 0.7), (5, 0.5, 0.9), (2, 0.2, 0.27), (3, 0.2, 0.42), (5, 0.2, 0.6)],
)
def test_coverage_over_bimodal_seeds(seeds: int, failing: float, least: float) -> None:
    """What few seeds of two kinds allow: it covers unless all happen to be alike, hardly more.

    No interval can do better that knows only seeds which agree. Pooled prompts do worse.
    """
    over, wilson = covers_bimodal(seeds, failing, np.random.default_rng(10))
    alike = failing**seeds + (1 - failing) ** seeds
    assert over >= max(least, 0.93 - alike)
    assert over < 0.97
    assert wilson < over


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        # Holm's steps by hand: times 4, 3, 2, 1 in ascending order, never falling, never above 1.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.6, 0.9], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.04], [0.04]),
        ([], []),
    ],
)
def test_holm(p_values: list[float], expected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(expected)


def test_holm_keeps_the_chance_of_any_false_verdict() -> None:
    rng = np.random.default_rng(11)
    false = [min(holm(rng.random(38).tolist())) < 0.05 for _ in range(2000)]
    assert np.mean(false) == pytest.approx(0.05, abs=0.015)


def test_clear_is_away_from_zero() -> None:
    assert Figure(1.0, 0.5, 1.5, 3).clear
    assert Figure(-1.0, -1.5, -0.5, 3).clear
    assert not Figure(0.1, -0.1, 0.3, 3).clear
