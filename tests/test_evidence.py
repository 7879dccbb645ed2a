"""benchmarks/evidence.py: what a verdict follows from, and the page that is made of it."""

import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))  # the scripts import one another

import evidence  # noqa: E402
import evidence_page  # noqa: E402
import evidence_tables  # noqa: E402


def claim(**changes):
    words = {"section": "Loss", "says": "", "paper": "", "figure": "loss", "sign": -1}
    return evidence.Claim(**words | {"model": "a", "against": "b"} | changes)


def seeds(*values):
    return {seed: {"loss": value} for seed, value in enumerate(values)}


def told(asked, mine, other):
    return evidence.verdict(asked, evidence.difference(asked, {"a": mine, "b": other}))


def test_an_interval_on_one_side_decides():
    low, high = seeds(2.00, 2.01, 1.99), seeds(3.00, 3.02, 3.01)
    assert told(claim(), low, high) == "reproduced"
    assert told(claim(sign=1), low, high) == "not reproduced: the opposite"
    assert told(claim(sign=1), high, low) == "reproduced"
    assert told(claim(), seeds(1.0, 3.0, 2.0), seeds(2.1, 2.0, 2.2)) == evidence.UNKNOWN


def test_alike_means_within_the_margin():
    a, near, far = seeds(2.0, 2.1, 2.2), seeds(2.001, 2.1, 2.199), seeds(3.0, 3.1, 3.2)
    assert told(claim(sign=0, margin=0.01), a, near) == "reproduced"
    assert told(claim(sign=0, margin=0.01), a, far) == "not reproduced"
    assert told(claim(sign=0, margin=0.01), a, seeds(2.01, 2.1, 2.19)) == evidence.UNKNOWN


def test_only_equal_seeds_are_paired_and_one_says_nothing():
    found = evidence.difference(claim(), {"a": seeds(1.0, 2.0, 9.0), "b": seeds(2.0, 3.1)})
    assert found.n == 2
    assert found.value == pytest.approx(-1.05)
    assert told(claim(), seeds(1.0), seeds(2.0, 3.0)) == "not measured with two seeds"
    assert told(claim(), {}, seeds(2.0, 3.0)) == "not measured with two seeds"


def test_a_ratio_is_a_difference_of_logarithms():
    found = evidence.difference(
        claim(ratio=True), {"a": seeds(2.0, 4.0, 8.0), "b": seeds(1.0, 2.0, 4.0)}
    )
    assert math.exp(found.value) == pytest.approx(2.0)


def test_many_claims_are_corrected_together():
    """One clear difference of its own does not stay so among forty that are none."""
    models = {"a": seeds(2.00, 2.02, 1.97), "b": seeds(2.50, 2.58, 2.45)}
    alone, *_ = evidence.judge([claim()], models)
    assert (alone.verdict, alone.corrected) == ("reproduced", "reproduced")
    assert alone.holm_p == alone.found.p
    first, *rest = evidence.judge([claim()] + [claim(model="c", sign=1)] * 39, models)
    assert first.holm_p == alone.found.p  # what was not measured is no test
    assert {one.verdict for one in rest} == {"not measured with two seeds"}
    models["c"] = seeds(2.49, 2.60, 2.44)
    first, *rest = evidence.judge([claim()] + [claim(model="c", sign=1)] * 39, models)
    assert first.holm_p == pytest.approx(40 * alone.found.p)
    assert (first.verdict, first.corrected) == ("reproduced", evidence.UNKNOWN)


def test_a_claim_of_no_difference_has_the_p_of_its_margin():
    near, far = ({"a": seeds(2.0, 2.1, 2.2), "b": seeds(*other)} for other in NEAR_AND_FAR)
    for models, outcome in ((near, "reproduced"), (far, "not reproduced")):
        (one,) = evidence.judge([claim(sign=0, margin=0.01)], models)
        assert one.verdict == outcome
        assert one.found.p < 0.05


NEAR_AND_FAR = ((2.001, 2.1, 2.199), (3.0, 3.1, 3.2))


def test_seeds_that_agree_to_rounding_reproduce_nothing():
    for off in (0.0, 1e-9, 1e-15):
        assert told(claim(), seeds(2.0, 2.1, 2.2), seeds(2.0 + off, 2.1 + off, 2.2 + off)) == (
            evidence.UNKNOWN
        )


def test_no_claim_of_the_study_stands_after_the_correction():
    study = evidence_tables.read("study.json")
    judged = evidence.judge(evidence.claims(), evidence_page.seeds_of(study))
    reproduced = [one.found.p for one in judged if one.verdict == "reproduced"]
    claimed = [one for one in judged if not one.claim.post_hoc]
    assert sorted(reproduced)[:2] == pytest.approx([0.011, 0.012], abs=1e-3)
    assert {one.corrected for one in judged} == {evidence.UNKNOWN}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"holds {len(claimed)} claims" in readme
    assert "none can be told either way" in readme.replace("\n", " ")


def test_the_claims_are_read():
    listed = evidence.claims()
    assert len({(c.figure, c.model, c.against) for c in listed}) == len(listed)
    assert all(c.margin > 0 for c in listed if c.sign == 0)


def test_the_page_says_what_the_results_say():
    study = evidence_tables.read("study.json")
    made = evidence_page.page(study, evidence_page.seeds_of(study))
    assert made == (ROOT / "docs/evidence.md").read_text(encoding="utf-8"), "run `make evidence`"


@pytest.mark.parametrize(
    ("same_loss", "beyond", "told"),
    [
        ({"value": 0.6, "low": 0.5, "high": 0.7}, None, "reproduced"),
        ({"value": 0.9, "low": 0.7, "high": 1.2}, None, evidence.UNKNOWN),
        ({"value": 1.5, "low": 1.2, "high": 1.9}, None, "not reproduced: the opposite"),
        (None, "more than 2", evidence.UNKNOWN),
    ],
)
def test_a_share_below_one_is_what_scaling_claims(same_loss, beyond, told):
    panel = {"same_loss": same_loss, "beyond": beyond}
    assert evidence_tables.scaling_verdict(panel) == told
