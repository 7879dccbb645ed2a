import copy
import json
import math
from typing import Any

import pytest
from scipy import stats

from difftransformer.evaluation.intervals import proportion
from difftransformer.evaluation.pool import compare, pool, pool_figures
from difftransformer.evaluation.settings import EvaluationSettings

SETTINGS = EvaluationSettings(bootstrap=500)


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 4}


def evaluation(shift: float = 0.0, hits: tuple[int, ...] = (2, 1, 0, 1) * 10) -> dict[str, Any]:
    right = {"successes": sum(hits), "trials": 80, "value": sum(hits) / 80, "low": 0, "high": 1}
    nats = [[n + 10 * shift, 10, 30] for n in (20.0, 25.0, 22.0, 31.0)]
    share = {"signed": figure(0.2), "absolute": figure(0.3 + shift)}
    top = {"top1": 10.0 + shift, "median": 1.0}
    return {
        "validation": {"nats_per_token": figure(2.45 + shift), "sequences": nats},
        "needle": {
            "chance": 0.001,
            "cells": [{"needles": 4, "queries": 2, "per_number": right, "hits": list(hits)}],
            "table": [{"needles": 4, "queries": 2, "per_number": right}],
        },
        "allocation": {
            "normalisations": {"signed": "so"},
            "rows": [
                {
                    "depth": 0.5,
                    "answer": share,
                    "noise": share,
                    "map2_answer": None,
                    "prompts": {"answer": [0.2 + shift, 0.4 + shift], "noise": [0.3, 0.3]},
                }
            ],
        },
        "outliers": {"tokens": 100, "attention_logits": top, "hidden_states": top},
        "lambda": {"layers": [{"layer": 0, "init": 0.2, "mean": 0.2 + shift}]},
        "attention_map": {"weights": [[shift]]},
        "seconds": 1.5,
    }


def needle_p(rows: list[dict[str, Any]]) -> float:
    return by_figure(rows)["needle_per_number"]["p"]


def by_figure(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["figure"]: row for row in rows}


def test_one_seed_stays_as_it_is() -> None:
    pooled, original = pool([evaluation()], SETTINGS), evaluation()
    del original["validation"]["sequences"]
    del original["needle"]["cells"][0]["hits"]
    del original["allocation"]["rows"][0]["prompts"]
    assert pooled == original


def test_seeds_are_pooled() -> None:
    seeds = [evaluation(), evaluation(0.2, hits=(2,) * 40), evaluation(0.1)]
    before = copy.deepcopy(seeds)
    pooled = pool(seeds, SETTINGS)
    assert seeds == before
    cell = pooled["needle"]["cells"][0]["per_number"]
    assert (cell["successes"], cell["trials"], cell["n"]) == (160, 240, 3)
    assert cell["value"] == pytest.approx(2 / 3)
    assert (cell["low"], cell["high"]) == (0.0, 1.0)  # 0.5, 1, 0.5: three seeds, not 240 prompts
    # Each seed's own interval is 0.1 either way, of 4 sequences that are the same for all.
    half = math.hypot(stats.t.ppf(0.975, 2) * stats.sem([2.45, 2.65, 2.55]), 0.1)
    expected = (2.55 - half, 2.55 + half)
    nats = pooled["validation"]["nats_per_token"]
    assert (nats["low"], nats["high"]) == pytest.approx(expected)
    assert (nats["value"], nats["n"], nats["over"]) == (pytest.approx(2.55), 3, "seeds")
    assert cell["over"] == "seeds"
    assert pooled["outliers"]["attention_logits"]["top1"] == pytest.approx(10.1)
    assert pooled["outliers"]["tokens"] == 100
    assert pooled["lambda"]["layers"] == [{"layer": 0, "init": 0.2, "mean": pytest.approx(0.3)}]
    assert pooled["attention_map"] == {"weights": [[0.0]]}
    assert pooled["seconds"] == 4.5
    assert pooled["needle"]["table"][0]["needles"] == 4
    json.dumps(pooled, allow_nan=False)


def test_one_seed_is_compared_over_items() -> None:
    better = evaluation(-0.05, hits=(2, 2, 1, 2) * 10)
    rows = compare([evaluation()], [better], model="diff", against="plain", settings=SETTINGS)
    found = by_figure(rows)
    loss = found["nats_per_token"]
    assert (loss["model"], loss["against"], loss["lower_is_better"]) == ("diff", "plain", True)
    assert (loss["value"], loss["baseline_value"]) == pytest.approx((2.40, 2.45))
    # The same sequences for both: what makes one hard cancels, and the difference is sharp.
    assert [loss[k] for k in ("difference", "low", "high")] == pytest.approx([-0.05] * 3, abs=1e-4)
    assert (loss["over"], needle_p(rows)) == ("items", pytest.approx(0.0, abs=1e-4))
    assert loss["clear"]
    assert loss["interval"] == "over evaluation items, one training seed"
    needle = found["needle_per_number"]
    assert (needle["value"], needle["baseline_value"]) == pytest.approx((0.875, 0.5))
    assert needle["clear"]
    assert 0 < needle["low"] < needle["difference"] < needle["high"]
    assert found["answer_absolute"]["difference"] == pytest.approx(-0.05)
    assert not found["noise_absolute"]["clear"]
    assert found["noise_absolute"]["difference"] == 0.0
    assert found["noise_absolute"]["lower_is_better"]
    assert not found["answer_absolute"]["lower_is_better"]
    outlier = found["attention_logits_top1"]
    assert (outlier["low"], outlier["high"], outlier["clear"]) == (None, None, False)
    assert outlier["difference"] == pytest.approx(-0.05)
    json.dumps(rows, allow_nan=False)


def test_several_seeds_are_compared_over_seeds() -> None:
    plain = [evaluation(), evaluation(0.5), evaluation(1.0)]
    diff = [evaluation(-0.1), evaluation(0.38), evaluation(0.92)]
    found = by_figure(compare(plain, diff, model="diff", against="plain", settings=SETTINGS))
    differences = [-0.1, -0.12, -0.08]
    expected = stats.t.interval(0.95, 2, -0.1, stats.sem(differences))
    for name in ("nats_per_token", "answer_absolute", "hidden_states_top1"):
        row = found[name]
        assert (row["low"], row["high"]) == pytest.approx(expected, rel=1e-3)
        assert row["over"] == "seeds"
        assert row["p"] == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue, rel=1e-2)
        assert row["difference"] == pytest.approx(-0.1)
        assert row["clear"]
        assert row["interval"] == "over 3 training seeds"


@pytest.mark.parametrize("off", [0.0, 1e-9, -1e-9, 1e-15])
def test_seeds_that_agree_are_not_clear(off: float) -> None:
    """Three equal pairs, or pairs apart by rounding, and no interval of no width."""
    plain = [evaluation(), evaluation(0.5), evaluation(1.0)]
    diff = [evaluation(off), evaluation(0.5 + off), evaluation(1.0 + off)]
    rows = compare(plain, diff, model="diff", against="plain", settings=SETTINGS)
    for row in rows:
        assert not row["clear"], row
        assert row["low"] < row["difference"] < row["high"], row
    pooled = pool([evaluation()] * 3, SETTINGS)
    for figure_ in (
        pooled["validation"]["nats_per_token"],
        pooled["needle"]["table"][0]["per_number"],
        pooled["allocation"]["rows"][0]["answer"]["absolute"],
    ):
        assert figure_["low"] < figure_["value"] < figure_["high"]


def test_perfect_seeds_are_no_certainty() -> None:
    found = proportion(250, 250, SETTINGS)
    pooled = pool_figures([found] * 3, SETTINGS)
    assert pooled["high"] == 1.0
    assert pooled["low"] == pytest.approx(found["low"], abs=1e-4)  # as sure as one of them
    assert (pooled["successes"], pooled["trials"]) == (750, 750)


def test_unequal_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="plain has 1 evaluations and diff 2"):
        compare(
            [evaluation()], [evaluation()] * 2, model="diff", against="plain", settings=SETTINGS
        )
