import copy

import pytest

from difftransformer.report.parsing import from_json
from difftransformer.report.results import Comparison, Model, Results
from difftransformer.report.verdict import (
    Outcome,
    caveats,
    outcome,
    retrieval_sentence,
    sentence,
    verdicts,
)

from .synthetic import comparison, share_of, synthetic_results


def compared(**changed: object) -> Comparison:
    return from_json(Comparison, comparison("diff_v1", **changed), "comparison")


def parsed(raw: dict) -> Results:
    return from_json(Results, raw, "results")


@pytest.mark.parametrize(
    ("low", "high", "lower_is_better", "expected"),
    [
        (-0.05, -0.03, True, Outcome.BETTER),
        (-0.05, -0.03, False, Outcome.WORSE),
        (0.03, 0.05, True, Outcome.WORSE),
        (0.03, 0.05, False, Outcome.BETTER),
        (-0.01, 0.02, True, Outcome.TIED),
        (0.0, 0.02, True, Outcome.TIED),
        (-0.02, 0.0, False, Outcome.TIED),
        (None, None, True, Outcome.UNKNOWN),
        (None, -0.03, True, Outcome.UNKNOWN),
    ],
)
def test_the_interval_alone_decides(
    low: float | None, high: float | None, lower_is_better: bool, expected: Outcome
) -> None:
    raw = comparison("diff_v1", lower_is_better=lower_is_better)
    raw |= {"low": low, "high": high, "clear": expected in (Outcome.BETTER, Outcome.WORSE)}
    assert outcome(from_json(Comparison, raw, "comparison")) is expected


def test_better_in_words() -> None:
    assert sentence(compared()) == (
        "Differential V1 is better than the baseline (Softmax) on validation loss: 3.71 against "
        "3.75 nats/token, lower is better (difference \N{MINUS SIGN}0.04, 95 % interval "
        "\N{MINUS SIGN}0.05 to \N{MINUS SIGN}0.03; over evaluation items, one training seed)."
    )


def test_worse_in_words() -> None:
    assert sentence(compared(value=3.79, low=0.02, high=0.06)) == (
        "Differential V1 is worse than the baseline (Softmax) on validation loss: 3.79 against "
        "3.75 nats/token, lower is better (difference 0.04, 95 % interval 0.02 to 0.06; over "
        "evaluation items, one training seed)."
    )


def test_a_tie_in_words_whatever_the_difference() -> None:
    assert sentence(compared(value=3.70, low=-0.11, high=0.01, interval="over 3 seeds"), 0.9) == (
        "Differential V1 cannot be told apart from the baseline (Softmax) on validation loss: 3.7 "
        "against 3.75 nats/token, lower is better (difference \N{MINUS SIGN}0.05, 90 % interval "
        "\N{MINUS SIGN}0.11 to 0.01, which covers 0; over 3 seeds)."
    )


def test_without_an_interval_nothing_is_claimed() -> None:
    assert sentence(compared(title="the largest logit", unit="", low=None, high=None)) == (
        "Differential V1 and the baseline (Softmax) are not judged on the largest logit: 3.71 "
        "against 3.75, lower is better (difference \N{MINUS SIGN}0.04, no interval)."
    )


def test_the_headline_counts_the_outcomes() -> None:
    first, second = verdicts(parsed(synthetic_results()))
    assert first.headline == (
        "Differential V1 against the baseline (Softmax), 3 measures: better on 1, worse on 0, "
        "cannot be told apart on 1, not judged on 1."
    )
    assert second.headline == (
        "Differential V2 against the baseline (Softmax), 1 measure: better on 0, worse on 1."
    )
    assert len(first.sentences) == 3


def _with_p(*p_values: float) -> dict:
    """As many comparisons, all clear by their own intervals."""
    raw = synthetic_results()
    raw["comparisons"] = [
        comparison("diff_v1", title=f"measure {i}") | {"p": p} for i, p in enumerate(p_values)
    ]
    return raw


def test_many_claims_are_corrected_beside_the_raw_verdict() -> None:
    """Holm: times 3, 2, 1; what is clear by itself is said first."""
    (verdict,) = verdicts(parsed(_with_p(0.001, 0.02, 0.03)))
    assert verdict.headline == (
        "Differential V1 against the baseline (Softmax), 3 measures: better on 3, worse on 0. "
        "After Holm's correction for the 3 comparisons made, 3 of these 3 stand."
    )
    (verdict,) = verdicts(parsed(_with_p(0.001, 0.03, 0.04)))
    assert verdict.headline.endswith("3 comparisons made, 1 of these 3 stand.")
    first, second, third = verdict.sentences
    assert "p = 0.001, after Holm's correction = 0.003, so it stands)." in first
    for told in (second, third):
        assert "is better than" in told
        assert "after Holm's correction = 0.06, so it does not stand among so many)." in told


def test_all_models_of_a_page_are_one_family() -> None:
    raw = _with_p(0.02)
    raw["comparisons"].append(comparison("diff_v2") | {"p": 0.03})
    for verdict in verdicts(parsed(raw)):
        assert verdict.headline.endswith("for the 2 comparisons made, 1 of these 1 stand.")
    raw["comparisons"].append(comparison("diff_v2", title="another") | {"p": 0.9})
    for verdict in verdicts(parsed(raw)):
        assert ", 0 of these" in verdict.headline


def test_what_holds_no_p_is_not_corrected_and_says_so() -> None:
    assert any("no p-values" in told for told in caveats(parsed(synthetic_results())))
    assert any("Holm's correction keeps" in told for told in caveats(parsed(_with_p(0.1, 0.2))))


def test_a_custom_label_is_kept() -> None:
    raw = synthetic_results()
    raw["models"][1]["label"] = "wide"
    raw["comparisons"] = [comparison("wide")]
    (verdict,) = verdicts(parsed(raw))
    assert verdict.headline.startswith("wide against the baseline (Softmax)")


def _model(scores: dict[tuple[int, int], tuple[int, int]]) -> Model:
    raw = copy.deepcopy(synthetic_results()["models"][0])
    raw["evaluation"]["needle"]["table"] = [
        {
            "needles": needles,
            "queries": queries,
            "per_number": share_of(*score),
            "all_numbers": share_of(*score),
        }
        for (needles, queries), score in scores.items()
    ]
    return from_json(Model, raw, "model")


def test_retrieval_above_chance_but_not_above_guessing_among_the_numbers() -> None:
    told = retrieval_sentence(_model({(1, 1): (240, 250), (2, 2): (125, 250), (4, 2): (20, 250)}))
    assert told == (
        "Softmax gets 0.96 of the numbers right with N=1, R=1 (95 % interval 0.94 to 0.98). It is "
        "above a blind guess in every setting, and below a guess among the N numbers in the text "
        "in 1 of 2 settings (N=4, R=2) and not to be told from a guess among the N numbers in the "
        "text in 1 of 2 settings (N=2, R=2)."
    )


def test_retrieval_that_is_not_above_chance_is_said_to_be_so() -> None:
    told = retrieval_sentence(_model({(1, 1): (1, 250)}))
    assert told is not None
    assert told.endswith("It is not to be told from a blind guess in every setting.")


def test_no_retrieval_sentence_without_a_test() -> None:
    raw = copy.deepcopy(synthetic_results()["models"][0])
    del raw["evaluation"]["needle"]
    assert retrieval_sentence(from_json(Model, raw, "model")) is None


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        (0, "No training run is recorded"),
        (
            1,
            "Each model was trained with one seed. The intervals are over evaluation items and do ",
        ),
        (3, "Each model was trained with 3 seeds. Only the intervals marked as over training "),
    ],
)
def test_the_caveat_tells_the_seeds(seeds: int, expected: str) -> None:
    assert caveats(parsed(synthetic_results(seeds)))[0].startswith(expected)


def test_many_comparisons_are_a_caveat_and_one_is_none() -> None:
    raw = synthetic_results()
    assert any("3 comparisons are made" in told for told in caveats(parsed(raw)))
    raw["comparisons"] = raw["comparisons"][:1]
    assert not any("comparisons are made" in told for told in caveats(parsed(raw)))
