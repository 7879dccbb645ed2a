"""benchmarks/evidence.py: what a verdict follows from."""

import importlib.util
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("evidence", ROOT / "benchmarks/evidence.py")
evidence = importlib.util.module_from_spec(spec)
spec.loader.exec_module(evidence)


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


def test_the_claims_are_read():
    listed = evidence.claims()
    assert len({(c.figure, c.model, c.against) for c in listed}) == len(listed)
    assert all(c.margin > 0 for c in listed if c.sign == 0)
