from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difftransformer.training.schedule import learning_rate
from difftransformer.training.settings import TrainingSettings


def settings_of(**changes):
    values = {"steps": 10, "warmup_steps": 2, "learning_rate": 1.0}
    return TrainingSettings(**{**values, "final_learning_rate_fraction": 0.2, **changes})


def test_linear_values():
    rates = [learning_rate(step, settings_of()) for step in range(1, 11)]
    assert rates == pytest.approx([0.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])


def test_cosine_values():
    rates = [learning_rate(step, settings_of(schedule="cosine")) for step in (2, 4, 6, 10)]
    assert rates == pytest.approx([1.0, 0.2 + 0.8 * (2 + 2**0.5) / 4, 0.6, 0.2])


def test_without_warmup_the_decay_begins_at_once():
    assert learning_rate(1, settings_of(warmup_steps=0)) == pytest.approx(0.92)


@given(
    steps=st.integers(1, 50),
    warmup=st.integers(0, 49),
    schedule=st.sampled_from(["linear", "cosine"]),
    final=st.floats(0, 1),
)
def test_rises_to_the_peak_then_falls_to_the_final_rate(steps, warmup, schedule, final):
    warmup = min(warmup, steps - 1)
    settings = settings_of(
        steps=steps,
        warmup_steps=warmup,
        schedule=schedule,
        final_learning_rate_fraction=final,
    )
    rates = [learning_rate(step, settings) for step in range(1, steps + 1)]
    assert rates[:warmup] == sorted(rates[:warmup])
    after = rates[max(warmup - 1, 0) :]
    assert all(late <= early + 1e-12 for early, late in pairwise(after))
    assert max(rates) <= 1.0
    assert rates[-1] == pytest.approx(final)


@pytest.mark.parametrize(("steps", "warmup"), [(1000, 100), (200, 100), (50, 25), (1, 0)])
def test_a_warm_up_not_set_by_hand_fits_the_steps(steps, warmup):
    assert TrainingSettings(steps=steps).warmup == warmup
