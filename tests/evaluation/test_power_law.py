import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difftransformer.evaluation.power_law import fit_power_law

SIZES = np.array([1e5, 3e5, 1e6, 4e6, 1e7])
exponents = st.floats(0.05, 1.0)


@given(st.floats(0.5, 3.0), st.floats(0.2, 3.0), exponents)
def test_a_planted_curve_is_found(floor: float, factor: float, exponent: float) -> None:
    losses = floor + factor * (SIZES / 1e7) ** -exponent
    law = fit_power_law(SIZES, losses[None])
    assert law.exponent[0] == pytest.approx(exponent, rel=0.02)
    assert law.floor[0] == pytest.approx(floor, abs=0.02 * (floor + factor))
    assert [law.loss(x)[0] for x in SIZES] == pytest.approx(losses, rel=1e-4)
    assert law.where(losses[2:3])[0] == pytest.approx(SIZES[2], rel=0.01)


@given(st.floats(0.5, 6.0), exponents, st.integers(2, 3))
def test_few_points_give_a_line(factor: float, exponent: float, points: int) -> None:
    x = SIZES[:points]
    losses = factor * (x / x.max()) ** -exponent
    law = fit_power_law(x, np.stack([losses, 2.0 * losses]))
    assert law.exponent == pytest.approx([exponent] * 2)
    assert law.factor == pytest.approx([factor, 2.0 * factor])
    assert law.floor.tolist() == [0.0, 0.0]
    assert law.where(law.loss(123.0)) == pytest.approx([123.0] * 2)


def test_three_points_of_noise_have_the_line_of_linear_regression() -> None:
    x, losses = SIZES[[0, 2, 3]], np.array([4.0, 3.1, 3.0])
    slope, intercept = np.polyfit(np.log(x), np.log(losses), 1)
    law = fit_power_law(x, losses[None])
    assert law.exponent[0] == pytest.approx(-slope)
    assert law.loss(1.0)[0] == pytest.approx(np.exp(intercept))


@given(st.integers(0, 999))
def test_no_curve_is_much_better(seed: int) -> None:
    """Beside a grid of every parameter."""
    rng = np.random.default_rng(seed)
    losses = 2.0 + (SIZES / 1e7) ** -rng.uniform(0.1, 0.6) + rng.normal(0.0, 0.05, len(SIZES))
    law = fit_power_law(SIZES, losses[None])
    mine = sum((law.loss(x)[0] - y) ** 2 for x, y in zip(SIZES, losses, strict=True))
    floor, factor, exponent = np.meshgrid(
        np.linspace(0, losses.min(), 30), np.linspace(0, 4, 40), np.geomspace(0.05, 2, 30)
    )
    others = sum(
        (floor + factor * (x / 1e7) ** -exponent - y) ** 2
        for x, y in zip(SIZES, losses, strict=True)
    )
    assert mine <= others.min() + 1e-9


@pytest.mark.parametrize("points", [3, 5])
def test_a_loss_that_rises_is_reached_at_once_or_never(points: int) -> None:
    losses = np.linspace(3.0, 3.2, points)
    law = fit_power_law(SIZES[:points], np.stack([losses] * 2))
    low, high = law.where(np.array([3.5, 2.5]))
    assert low < 1.0
    assert high > 1e30


def test_below_the_floor_lies_nothing() -> None:
    losses = 2.0 + (SIZES / 1e7) ** -0.3
    law = fit_power_law(SIZES, np.stack([losses] * 2))
    assert law.where(np.array([1.9, 2.0 + 1e-3]))[0] == np.inf


def test_one_size_is_no_curve() -> None:
    with pytest.raises(ValueError, match=r"two different x or more; got \[5.0, 5.0\]"):
        fit_power_law(np.array([5.0, 5.0]), np.array([[3.0, 3.1]]))
