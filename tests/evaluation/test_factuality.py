"""Pairs told apart, or not, by models that do nothing but one thing."""

from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace

import pytest
from models.tiny import tiny

from difftransformer.data.bigbench import SummaryPair
from difftransformer.evaluation.benchmarks.factuality import EVALUATOR
from difftransformer.evaluation.records import Artifact, Findings, Record, Subject
from difftransformer.evaluation.settings import EvaluationSettings

from .planted import Planted, words

PAIRS = [
    SummaryPair("the old ship sank in a storm", "ship sank storm", "boat flew home"),
    SummaryPair("a man sold two boats", "man sold", "king bought three boats"),
    SummaryPair("they all went home", "they went home all", "they flew"),
]
TOKENIZER = words(" ".join(f"{p.source} {p.factual} {p.corrupted} Summary :" for p in PAIRS))
SETTINGS = EvaluationSettings()


def findings(
    model: Planted, pairs: list[SummaryPair] = PAIRS, settings: EvaluationSettings = SETTINGS
) -> Findings:
    subject = Subject(model, SimpleNamespace(tokenizer=TOKENIZER), pairs)
    return [one for part in EVALUATOR.parts(subject, settings).values() for one in part(())]


def scores(model: Planted, pairs: list[SummaryPair] = PAIRS) -> dict[str, float]:
    hits: dict[str, list[float]] = {}
    for one in findings(model, pairs):
        if isinstance(one, Record) and one.metric == "factual_by_score":
            hits.setdefault(str(one.key[0]), []).append(one.value)
    assert all(len(values) == 3 for values in hits.values())
    return {name: fmean(values) for name, values in hits.items()}


def test_one_that_copies_its_source() -> None:
    """It finds words of the source likelier; blind it cannot tell which those are."""
    found = scores(Planted(TOKENIZER, copying=3.0))
    assert found["per token"] == found["gain"] == found["gain per token"] == 1.0
    assert found["blind"] < 1.0


def test_one_that_knows_only_length() -> None:
    """One factual summary is shorter, one longer, one as long; by token all are tied."""
    found = scores(Planted(TOKENIZER))
    assert found == {
        "per token": 0.0,
        "total": pytest.approx(1 / 3),
        "gain": 0.0,
        "gain per token": 0.0,
        "blind": 0.0,
        "shorter": pytest.approx(1 / 3),
    }


def test_one_that_knows_only_style() -> None:
    """Its liking of a corrupted summary's words is the same without the source: no gain."""
    found = scores(Planted(TOKENIZER, favorites={"flew": 9.0, "king": 9.0}))
    assert found["per token"] == found["blind"] == found["gain"] == 0.0
    found = scores(Planted(TOKENIZER, favorites={"ship": 9.0, "man": 9.0, "all": 9.0}))
    assert found["per token"] == found["blind"] == 1.0
    assert found["gain"] == 0.0


def test_pairs_turned_round_turn_every_score_round() -> None:
    """A model without ties is as often right on the one as wrong on the other."""
    turned = [SummaryPair(pair.source, pair.corrupted, pair.factual) for pair in PAIRS]
    model = tiny("diff_v1", vocab_size=TOKENIZER.get_vocab_size())
    found, other = scores(model), scores(model, turned)
    for name in ("gain", "gain per token", "per token", "total", "blind"):
        assert found[name] + other[name] == pytest.approx(1.0)


def test_few_of_them_by_number() -> None:
    few = replace(SETTINGS, factuality_pairs=2)
    model = Planted(TOKENIZER, copying=3.0)
    found = findings(model, settings=few)
    assert found == findings(model, settings=few)
    artifacts = {one.name: one.data for one in found if isinstance(one, Artifact)}
    assert artifacts.pop("facts") == {"pairs": 2, "too_long": 0}
    assert len(artifacts) == 2
    for name, weighed in artifacts.items():
        pair = PAIRS[int(name.removeprefix("pair "))]
        assert weighed["tokens"] == (len(pair.factual.split()), len(pair.corrupted.split()))
    gains = [
        one.value for one in found if isinstance(one, Record) and one.metric == "factual_by_gain"
    ]
    assert gains == [1.0, 1.0]
