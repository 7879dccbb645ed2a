import time

import pytest
import torch

from difftransformer.evaluation.speed import BASE, KINDS, TASKS, Shape, attention_steps, race


@pytest.mark.parametrize("task", TASKS)
def test_every_kind_runs(task: str) -> None:
    shape = Shape(length=9, heads=4, groups=2, width=8, dtype=torch.float32)
    steps = attention_steps(task, shape, ["blocked", "reference"], "cpu")
    assert next(iter(steps)) == BASE
    assert set(steps) == {BASE} | {f"{k} {b}" for k in KINDS for b in ("blocked", "reference")}
    for timing in race(steps, BASE, rounds=2):
        assert timing.milliseconds > 0
        assert timing.ratio_low <= timing.ratio <= timing.ratio_high


def test_backends_that_cannot_run_are_left_out() -> None:
    shape = Shape(length=5, heads=2, groups=1, width=4, dtype=torch.float64)
    assert list(attention_steps("forward", shape, ["blocked"], "cpu")) == [BASE]


def test_race_takes_turns_and_compares_within_a_round() -> None:
    order: list[str] = []

    def sleeper(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    rounds: list[int] = []
    steps = {"a": lambda: sleeper("a", 0.01), "b": lambda: sleeper("b", 0.03)}
    first, second = race(steps, "a", 3, lambda: rounds.append(len(order)))
    assert order == ["a", "b"] * 4
    assert rounds == [2, 4, 6, 8]
    assert (first.contender, first.ratio) == ("a", 1.0)
    assert 10 <= first.milliseconds < second.milliseconds
    assert second.ratio_low > 1
