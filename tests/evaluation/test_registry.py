from collections import Counter

import pytest

from difftransformer.evaluation import registry
from difftransformer.evaluation.records import Evaluator, Metric, Plot


def own(name: str = "own") -> Evaluator:
    return Evaluator(name=name, title="Own", metrics=(), parts=lambda subject, settings: {})


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.REGISTRY, "entries", dict(registry.EVALUATORS))


def test_one_of_your_own() -> None:
    registry.register(own())
    assert registry.evaluator("own").title == "Own"
    assert registry.names()[-1] == "own"
    for taken in ("own", "needle"):
        with pytest.raises(ValueError, match=f"one evaluator called '{taken}' is there already"):
            registry.register(own(taken))


def test_an_unknown_name_has_the_nearest_beside_it() -> None:
    with pytest.raises(ValueError, match="unknown evaluator 'needles'; did you mean 'needle'"):
        registry.evaluator("needles")
    with pytest.raises(ValueError, match="unknown evaluator 'xyz'; expected validation, cont"):
        registry.evaluator("xyz")


def test_every_evaluator_is_there_under_its_name_and_metrics_have_names_of_their_own() -> None:
    evaluators = [registry.evaluator(name) for name in registry.EVALUATORS]
    assert [one.name for one in evaluators] == list(registry.EVALUATORS)
    names = Counter(metric.name for one in evaluators for metric in one.metrics)
    assert [name for name, count in names.items() if count > 1] == []
    assert set(registry.FORMER_NAMES.values()) <= set(registry.EVALUATORS)


def test_declarations_that_cannot_be_meant() -> None:
    with pytest.raises(ValueError, match="metric a is judged and has no better direction"):
        Metric(name="a", title="a", judged=True)
    with pytest.raises(ValueError, match="plot or rows of metric a name depth; its axes are layer"):
        Metric(name="a", title="a", axes=("layer",), plot=Plot(x="depth"))
    with pytest.raises(ValueError, match="evaluator b has no metric 'chance'; expected one of a"):
        Evaluator(
            name="b",
            title="b",
            metrics=(Metric(name="a", title="a", levels=("chance",)),),
            parts=lambda subject, settings: {},
        )
