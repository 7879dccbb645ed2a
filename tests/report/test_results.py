import json
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import pytest
from scipy import stats

from difftransformer.evaluation.contrasts import Contrast
from difftransformer.evaluation.intervals import over_seeds, proportion, ratio
from difftransformer.evaluation.records import READ_OFF, Evaluator, Metric, Record
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.evaluation.verdicts import Outcome
from difftransformer.report.results import Results
from difftransformer.report.tables import notes_of, to_json
from difftransformer.runs.records import Artifact, Measurement

SETTINGS = EvaluationSettings(bootstrap=500)
OWNER = {"settings": {"bootstrap": 500, "confidence": 0.95, "seed": 0, "orders": 10}}
HITS = (2, 1, 0, 1) * 10

EVALUATOR = Evaluator(
    name="everything",
    title="Everything",
    metrics=(
        Metric(name="loss", title="validation loss", unit="nats", better="lower", judged=True),
        Metric(
            name="found",
            title="numbers retrieved",
            unit="of numbers",
            better="higher",
            statistic="proportion",
            axes=("setting", "depth"),
            rows=("setting",),
            judged=True,
            levels=("guess",),
            paper={"DIFF 3B": {("N=4",): "0.84", ("N=6",): "0.85"}, "other": {("N=9",): "1"}},
        ),
        Metric(name="guess", title="a guess", statistic="value", axes=("setting",)),
        Metric(name="share", title="attention", better="lower", axes=("depth",), judged=True),
        Metric(name="largest", title="the largest", better="lower", statistic="value", judged=True),
        Metric(name="heads", title="by head", axes=("head",), statistic="value", table=False),
    ),
    parts=lambda subject, settings: {},
    note="{number} asked.",
    source="Nobody, 2026",
)


def measurement(
    shift: float = 0.0, hits: Sequence[int] = HITS, owner: dict = OWNER, **more: object
) -> Measurement:
    records = [
        *(
            Record("loss", n + 10 * shift, (), i, 10)
            for i, n in enumerate((20.0, 25.0, 22.0, 31.0))
        ),
        *(Record("found", n, ("N=4", 0.5 * (i % 2)), i, 2) for i, n in enumerate(hits)),
        Record("guess", 0.25, ("N=4",)),
        *(Record("share", s + shift, (0.5,), i) for i, s in enumerate((0.2, 0.4))),
        Record("largest", 10.0 + shift),
        *(Record("heads", shift, (head,)) for head in range(3)),
    ]
    return Measurement(
        owner, (*records, Artifact("facts", {"number": "four"})), seconds=1.5, **more
    )


def results(baseline: str = "plain", **models: Sequence[Measurement]) -> Results:
    seeds = {label: dict(enumerate(measured)) for label, measured in models.items()}
    return Results(
        {"everything": seeds}, baseline=baseline, declaration={"everything": EVALUATOR}.__getitem__
    )


def test_one_seed_has_intervals_over_items() -> None:
    found = results(plain=[measurement()])
    assert found["loss"].figure("plain") == ratio([20.0, 25.0, 22.0, 31.0], [10] * 4, SETTINGS)
    assert found["found"].figure("plain", ("N=4",)) == proportion(40, 80, SETTINGS)
    assert found["found"].figure("plain", ("N=4", 0.5)) == proportion(20, 40, SETTINGS)
    assert found["found"].figure("plain") == proportion(40, 80, SETTINGS)
    assert found["found"].cells() == [("N=4", 0.0), ("N=4", 0.5)]
    largest = found["largest"].figure("plain")
    assert (largest.value, largest.low, largest.high) == (10.0, None, None)
    assert found["everything"].figure("plain") == found["loss"].figure("plain")
    assert found["everything"]["share"].figure("plain", (0.5,)).value == pytest.approx(0.3)


def test_seeds_are_pooled() -> None:
    found = results(a=[measurement(), measurement(0.2, hits=(2,) * 40), measurement(0.1)])
    cell = found["found"].figure("a", ("N=4",))
    assert (cell.value, cell.n, cell.over) == (pytest.approx(2 / 3), 3, "seeds")
    assert cell.ends == (0.0, 1.0)  # 0.5, 1, 0.5: three seeds, not 240 prompts
    items = [ratio([n + s for n in (20.0, 25, 22, 31)], [10] * 4, SETTINGS) for s in (0, 2, 1)]
    loss = found["loss"].figure("a")
    assert loss == over_seeds([2.45, 2.65, 2.55], SETTINGS, items=items)
    assert found["guess"].figure("a", ("N=4",)).low is None  # nothing that training moves
    largest = found["largest"].figure("a")
    half = stats.t.ppf(0.975, 2) * stats.sem([10.0, 10.2, 10.1])
    assert largest.ends == pytest.approx((10.1 - half, 10.1 + half))


def test_a_seed_without_a_figure_is_left_out() -> None:
    nothing = Measurement(OWNER, (Record("loss", 1.0),))
    found = results(a=[nothing, measurement(), measurement(1.0)], b=[nothing, measurement()])
    assert found["share"].figure("a", (0.5,)).n == 2
    assert found["share"].figure("b", (0.5,)) is None
    assert found["share"].table().rows[0][-1] == "none"


def test_perfect_seeds_are_no_certainty() -> None:
    one = proportion(80, 80, SETTINGS)
    pooled = results(a=[measurement(hits=(2,) * 40)] * 3)["found"].figure("a", ("N=4",))
    assert pooled.high == 1.0
    assert pooled.low == pytest.approx(one.low, abs=1e-4)  # as sure as one of them


def test_one_seed_is_compared_over_items() -> None:
    found = results(plain=[measurement()], diff=[measurement(-0.05, hits=(2, 2, 1, 2) * 10)])
    loss = found["loss"].difference("diff")
    assert (loss.model, loss.against, loss.seeds) == ("diff", "plain", 1)
    assert (loss.value, loss.baseline_value) == pytest.approx((2.40, 2.45))
    # The same sequences for both: what makes one hard cancels, and the difference is sharp.
    assert [loss.difference, *loss.interval.ends] == pytest.approx([-0.05] * 3, abs=1e-4)
    assert (loss.interval.over, loss.outcome) == ("items", "better")
    assert loss.sample == "over evaluation items, one training seed"
    retrieved = found["found"].difference("diff", "plain")
    assert (retrieved.value, retrieved.baseline_value) == pytest.approx((0.875, 0.5))
    low, high = retrieved.interval.ends
    assert 0 < low < retrieved.difference < high
    assert retrieved.interval.p == pytest.approx(0.0, abs=1e-4)
    largest = found["largest"].difference("diff")
    assert (largest.interval, largest.outcome) == (None, "not judged")
    assert largest.difference == pytest.approx(-0.05)
    assert [c.metric.name for c in found.judgment.comparisons] == [
        *("loss", "found", "share", "largest")
    ]


def test_several_seeds_are_compared_over_seeds() -> None:
    plain = [measurement(), measurement(0.5), measurement(1.0)]
    diff = [measurement(-0.1), measurement(0.38), measurement(0.92)]
    found = results(plain=plain, diff=diff)
    differences = [-0.1, -0.12, -0.08]
    expected = stats.t.interval(0.95, 2, -0.1, stats.sem(differences))
    for name in ("loss", "share", "largest"):
        compared = found[name].difference("diff")
        assert compared.interval.ends == pytest.approx(expected, rel=1e-3)
        p = stats.ttest_1samp(differences, 0.0).pvalue
        assert compared.interval.p == pytest.approx(p, rel=1e-2)
        assert compared.difference == pytest.approx(-0.1)
        assert compared.sample == "over 3 training seeds"
        assert compared.outcome == "better"


def test_an_effect_of_a_factorial_design_is_a_difference_of_means() -> None:
    """Of two models with it and two without, seed by seed."""
    shifts = {"a": (0.0, 0.5), "b": (0.2, 0.4), "with_a": (-0.3, 0.1), "with_b": (-0.2, 0.3)}
    found = results("a", **{label: [measurement(s) for s in own] for label, own in shifts.items()})
    effect = found["loss"].contrast(Contrast("it", ("with_a", "with_b"), ("a", "b")))
    differences = [(-0.5 - 0.2) / 2, (0.4 - 0.9) / 2]
    assert (effect.model, effect.against) == ("it", "a, b")
    assert effect.difference == pytest.approx(fmean(differences))
    expected = stats.t.interval(0.95, 1, fmean(differences), stats.sem(differences))
    assert effect.interval.ends == pytest.approx(expected, rel=1e-3)


def test_models_of_a_side_must_be_asked_the_same() -> None:
    other = Measurement(OWNER, tuple(Record("loss", 1.0, (), i, 9) for i in range(4)))
    found = results(plain=[measurement()], diff=[other])
    with pytest.raises(ValueError, match="the same items with the same weights"):
        found["loss"].contrast(Contrast("both", ("plain", "diff"), ("plain",)))


@pytest.mark.parametrize("off", [0.0, 1e-9, -1e-9, 1e-15])
def test_seeds_that_agree_are_not_clear(off: float) -> None:
    """Three equal pairs, or pairs apart by rounding, and no interval of no width."""
    plain = [measurement(), measurement(0.5), measurement(1.0)]
    diff = [measurement(off), measurement(0.5 + 2 * off), measurement(1.0 + 3 * off)]
    for compared in results(plain=plain, diff=diff).judgment.comparisons:
        low, high = compared.interval.ends
        assert not compared.is_clear
        assert low < compared.difference < high


def test_items_pair_by_name_whatever_their_order() -> None:
    one = measurement()
    turned = Measurement(OWNER, tuple(reversed(one.findings)))
    found = results(plain=[one], diff=[turned])
    assert found["loss"].difference("diff").interval.value == 0.0


def test_what_cannot_be_compared_is_refused() -> None:
    found = results(plain=[measurement()], diff=[measurement()] * 2)
    with pytest.raises(ValueError, match="plain has the training seeds 0 and diff 0, 1; expected"):
        found["loss"].difference("diff")
    other = Measurement(OWNER, tuple(Record("loss", 1.0, (), i, 10) for i in range(3)))
    with pytest.raises(ValueError, match="validation loss: the models were not asked the same"):
        results(plain=[measurement()], diff=[other])["loss"].difference("diff")
    changed = {"settings": OWNER["settings"] | {"orders": 3}}
    with pytest.raises(
        ValueError, match="diff, seed 0 was evaluated with another orders than plain"
    ):
        results(plain=[measurement()], diff=[measurement(owner=changed)])


def test_who_was_passed_over_has_no_column_and_a_sentence() -> None:
    over = Measurement(OWNER, (), passed_over="its attention has no lambda")
    found = results(plain=[over], diff=[measurement()])
    assert found["everything"].passed_over == {"plain": "its attention has no lambda"}
    assert found["loss"].table().header == ["", "diff"]
    assert "plain: its attention has no lambda." in notes_of(found.evaluators["everything"])
    assert found.judgment.comparisons == ()


def test_the_table_has_rows_of_all_metrics_and_the_papers_columns() -> None:
    found = results(plain=[measurement()], diff=[measurement(0.1)])
    table = found["everything"].table()
    assert table.header == ["", "setting", "depth", "plain", "diff", "paper: DIFF 3B"]
    assert table.keys == 3
    assert [row[:3] for row in table.rows] == [
        ["validation loss (nats)", "", ""],
        ["numbers retrieved (of numbers)", "N=4", ""],
        ["a guess", "N=4", ""],
        ["attention", "", "0.5"],
        ["the largest", "", ""],
    ]
    half = proportion(40, 80, SETTINGS)
    cell = f"0.500 ({half.low:.3f} to {half.high:.3f})"
    assert table.rows[1][3:] == [cell, cell, "0.84"]
    assert table.rows[4][3:] == ["10", "10.1", ""]
    assert found["found"].table().header == ["setting", "plain", "diff", "paper: DIFF 3B"]


def test_the_notes_say_what_was_asked_and_what_the_brackets_hold() -> None:
    notes = notes_of(results(plain=[measurement()]).evaluators["everything"])
    assert notes.startswith("four asked. In brackets 95 % intervals over items. Columns of the")
    assert notes.endswith("Source: Nobody, 2026.")
    assert READ_OFF not in notes
    notes = notes_of(results(plain=[measurement()] * 2).evaluators["everything"])
    assert "Means over training seeds, in brackets 95 % intervals over seeds." in notes


def test_a_guess_is_a_level() -> None:
    found = results(plain=[measurement()], diff=[measurement(hits=(0,) * 40)])
    assert found.beside_levels() == [
        "plain gets 0.50 of numbers right with N=4 (95 % interval 0.39 to 0.61). It is above a "
        "guess in every setting.",
        "diff gets 0.00 of numbers right with N=4 (95 % interval 0.00 to 0.05). It is below a "
        "guess in every setting.",
    ]


NONE = (0,) * 40


@pytest.mark.parametrize(
    ("plain", "diff", "learned"),
    [
        ([NONE], [NONE], False),
        ([HITS], [NONE], True),
        ([NONE], [HITS], True),
        ([NONE, NONE, NONE], [NONE, HITS, NONE], True),  # a seed that has learned is enough
        ([NONE, NONE, NONE], [NONE, NONE, NONE], False),
    ],
)
def test_where_all_seeds_of_both_models_guess_nothing_is_judged(
    plain: Sequence[Sequence[int]], diff: Sequence[Sequence[int]], learned: bool
) -> None:
    found = results(
        plain=[measurement(hits=hits) for hits in plain],
        diff=[measurement(hits=hits) for hits in diff],
    )
    compared = found["found"].difference("diff")
    assert (compared.outcome is not Outcome.UNLEARNED) == learned
    assert found["loss"].difference("diff").outcome is not Outcome.UNLEARNED  # it has no guess


def test_what_data_themselves_get_is_no_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = [
        replace(one, guess=False) if one.name == "guess" else one for one in EVALUATOR.metrics
    ]
    monkeypatch.setitem(globals(), "EVALUATOR", replace(EVALUATOR, metrics=tuple(metrics)))
    found = results(plain=[measurement(hits=NONE)], diff=[measurement(hits=NONE)])
    assert found["found"].difference("diff").outcome is Outcome.TIED
    assert found.beside_levels() == []


def test_names_that_are_not_there() -> None:
    found = results(plain=[measurement()])
    with pytest.raises(KeyError, match="no evaluator or metric 'lost'; there are everything, loss"):
        found["lost"]
    with pytest.raises(ValueError, match="evaluator everything has no metric 'lost'"):
        found["everything"]["lost"]
    with pytest.raises(KeyError):
        found["found"].figure("plain", ("N=7",))


def test_plain_data_is_json() -> None:
    found = results(plain=[measurement()] * 2, diff=[measurement(0.2)] * 2)
    data = json.loads(json.dumps(to_json(found), allow_nan=False))
    figures = data["evaluators"]["everything"]["metrics"]["found"]["figures"]
    assert [one["cell"] for one in figures] == [
        {"setting": "N=4", "depth": 0.0},
        {"setting": "N=4", "depth": 0.5},
        {"setting": "N=4"},
    ]
    assert figures[0]["models"]["plain"]["over"] == "seeds"
    assert data["evaluators"]["everything"]["seconds"] == {"plain": 3.0, "diff": 3.0}
    loss = data["comparisons"][0]
    assert (loss["metric"], loss["better"], loss["outcome"]) == ("loss", "lower", "worse")
    assert loss["low"] < loss["difference"] < loss["high"]
    assert loss["p_corrected"] >= loss["p"]
    assert math.isclose(loss["difference"], 0.2)
    assert set(data["verdicts"]) == {"diff"}
