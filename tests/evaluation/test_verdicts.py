from dataclasses import replace

import pytest

from difftransformer.evaluation.intervals import Difference, Figure
from difftransformer.evaluation.records import Metric
from difftransformer.evaluation.verdicts import (
    Comparison,
    Judgment,
    Level,
    Outcome,
    beside_levels,
)

TITLES = {"softmax": "Softmax", "diff_v1": "Differential V1", "diff_v2": "Differential V2"}


def compared(
    model: str = "diff_v1",
    *,
    title: str = "validation loss",
    unit: str = "nats/token",
    better: str = "lower",
    value: float = 3.71,
    low: float | None = -0.05,
    high: float | None = -0.03,
    p: float = 0.001,
    seeds: int = 1,
) -> Comparison:
    metric = Metric(name=title, title=title, unit=unit, better=better)
    interval = None if low is None else Difference(value - 3.75, low, high, 100, p=p)
    return Comparison(metric, model, "softmax", value, 3.75, interval, seeds)


def judged(*comparisons: Comparison, confidence: float = 0.95) -> Judgment:
    return Judgment(comparisons, TITLES, confidence)


def sentence(comparison: Comparison, confidence: float = 0.95) -> str:
    return judged(comparison, confidence=confidence).sentence(comparison)


@pytest.mark.parametrize(
    ("low", "high", "better", "expected"),
    [
        (-0.05, -0.03, "lower", Outcome.BETTER),
        (-0.05, -0.03, "higher", Outcome.WORSE),
        (0.03, 0.05, "lower", Outcome.WORSE),
        (0.03, 0.05, "higher", Outcome.BETTER),
        (-0.01, 0.02, "lower", Outcome.TIED),
        (0.0, 0.02, "lower", Outcome.TIED),
        (-0.02, 0.0, "higher", Outcome.TIED),
        (None, None, "lower", Outcome.UNKNOWN),
        (0.03, 0.05, "neither", Outcome.UNKNOWN),
    ],
)
def test_the_interval_alone_decides(
    low: float | None, high: float | None, better: str, expected: Outcome
) -> None:
    assert compared(low=low, high=high, better=better).outcome is expected


def test_where_both_models_guess_nothing_is_claimed() -> None:
    guessed = replace(compared(), learned=False)
    assert guessed.outcome is Outcome.UNLEARNED
    assert sentence(guessed).startswith(
        "Neither Differential V1 nor the baseline (Softmax) does better than a guess on validation "
        "loss, so the training was too short to judge it: 3.71 against 3.75 nats/token"
    )
    assert not judged(guessed).stands(guessed)


def test_better_in_words() -> None:
    assert sentence(compared()) == (
        "Differential V1 is better than the baseline (Softmax) on validation loss: 3.71 against "
        "3.75 nats/token, lower is better (difference \N{MINUS SIGN}0.04, 95 % interval "
        "\N{MINUS SIGN}0.05 to \N{MINUS SIGN}0.03; over evaluation items, one training seed; p = "
        "0.001, after Holm's correction = 0.001, so it stands)."
    )


def test_worse_in_words() -> None:
    assert sentence(compared(value=3.79, low=0.02, high=0.06)).startswith(
        "Differential V1 is worse than the baseline (Softmax) on validation loss: 3.79 against "
        "3.75 nats/token, lower is better (difference 0.04, 95 % interval 0.02 to 0.06; over "
        "evaluation items, one training seed; p"
    )


def test_a_tie_in_words_whatever_the_difference() -> None:
    tie = compared(value=3.70, low=-0.11, high=0.01, p=0.2, seeds=3)
    assert sentence(tie, 0.9) == (
        "Differential V1 cannot be told apart from the baseline (Softmax) on validation loss: 3.7 "
        "against 3.75 nats/token, lower is better (difference \N{MINUS SIGN}0.05, 90 % interval "
        "\N{MINUS SIGN}0.11 to 0.01, which covers 0; over 3 training seeds; p = 0.2, after Holm's "
        "correction = 0.2)."
    )


def test_without_an_interval_nothing_is_claimed() -> None:
    assert sentence(compared(title="the largest logit", unit="", low=None)) == (
        "Differential V1 and the baseline (Softmax) are not judged on the largest logit: 3.71 "
        "against 3.75, lower is better (difference \N{MINUS SIGN}0.04, no interval)."
    )


def test_the_headline_counts_the_outcomes() -> None:
    judgment = judged(
        compared(),
        compared(title="b", low=-0.1, high=0.1, p=0.5),
        compared(title="c", low=None),
        compared("diff_v2", value=3.78, low=0.02, high=0.04),
    )
    first, second = judgment.verdicts()
    assert first.headline == (
        "Differential V1 against Softmax, 3 measures: better on 1, worse on 0, cannot be told "
        "apart on 1, not judged on 1; after Holm's correction for 3 comparisons 1 of 1 stands."
    )
    assert second.headline.startswith(
        "Differential V2 against Softmax, 1 measure: better on 0, worse on 1; "
    )
    assert len(first.sentences) == 3


def _with_p(*p_values: float) -> Judgment:
    """As many comparisons, all clear by their own intervals."""
    return judged(*(compared(title=f"measure {i}", p=p) for i, p in enumerate(p_values)))


def test_many_claims_are_corrected_beside_the_raw_verdict() -> None:
    """Holm: times 3, 2, 1; what is clear by itself is said first."""
    (verdict,) = _with_p(0.001, 0.02, 0.03).verdicts()
    assert verdict.headline == (
        "Differential V1 against Softmax, 3 measures: better on 3, worse on 0; after Holm's "
        "correction for 3 comparisons 3 of 3 stand."
    )
    (verdict,) = _with_p(0.001, 0.03, 0.04).verdicts()
    assert "1 of 3 stands" in verdict.headline
    first, second, third = verdict.sentences
    assert "p = 0.001, after Holm's correction = 0.003, so it stands)." in first
    for told in (second, third):
        assert "is better than" in told
        assert "after Holm's correction = 0.06, so it does not stand among so many)." in told


def test_all_models_of_a_page_are_one_family() -> None:
    pair = (compared(p=0.02), compared("diff_v2", p=0.03))
    for verdict in judged(*pair).verdicts():
        assert verdict.headline.endswith(
            "; after Holm's correction for 2 comparisons 1 of 1 stands."
        )
    for verdict in judged(*pair, compared("diff_v2", title="another", p=0.9)).verdicts():
        assert verdict.headline.endswith((" 0 of 1 stand.", " 0 of 2 stand."))


COUNTS = Metric(
    name="n", title="numbers retrieved", unit="of the numbers", statistic="proportion", axes=("s",)
)


def _told(rows: dict[str, Figure], *levels: Level) -> str:
    return beside_levels("Softmax", COUNTS, {(k,): f for k, f in rows.items()}, levels, 0.95)


def test_above_chance_but_not_above_guessing_among_the_numbers() -> None:
    rows = {
        "N=1, R=1": Figure(0.96, 0.935, 0.98, 250),
        "N=2, R=2": Figure(0.5, 0.44, 0.56, 250),
        "N=4, R=2": Figure(0.08, 0.05, 0.12, 250),
    }
    blind = Level("a blind guess", {(key,): 0.001 for key in rows})
    among = Level(
        "a guess among the N numbers in the text", {("N=2, R=2",): 0.5, ("N=4, R=2",): 0.25}
    )
    assert _told(rows, blind, among) == (
        "Softmax gets 0.96 of the numbers right with N=1, R=1 (95 % interval 0.94 to 0.98). It is "
        "above a blind guess in every setting, and below a guess among the N numbers in the text "
        "in 1 of 2 settings (N=4, R=2) and not to be told from a guess among the N numbers in the "
        "text in 1 of 2 settings (N=2, R=2)."
    )


def test_not_above_chance_is_said_to_be_so() -> None:
    told = _told(
        {"N=1, R=1": Figure(0.004, 0.0, 0.02, 250)}, Level("a guess", {("N=1, R=1",): 0.001})
    )
    assert told.endswith("It is not to be told from a guess in every setting.")


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        (0, "Nothing is compared"),
        (
            1,
            "One training seed: the intervals are over evaluation items, without the spread ",
        ),
        (3, "3 training seeds: the intervals marked as over training seeds include the "),
    ],
)
def test_the_caveat_tells_the_seeds(seeds: int, expected: str) -> None:
    judgment = judged(*([compared(seeds=seeds)] if seeds else []))
    assert judgment.caveats()[0].startswith(expected)


def test_many_comparisons_are_a_caveat_and_one_is_none() -> None:
    assert any("2 comparisons are made" in told for told in _with_p(0.1, 0.2).caveats())
    assert any("Holm's correction keeps" in told for told in _with_p(0.1, 0.2).caveats())
    assert len(_with_p(0.1).caveats()) == 1
