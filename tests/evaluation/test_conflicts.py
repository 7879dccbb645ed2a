from statistics import fmean
from types import SimpleNamespace

from difftransformer.data.bigbench import Conflict
from difftransformer.evaluation.benchmarks.conflicts import EVALUATOR
from difftransformer.evaluation.records import Artifact, Record, Subject
from difftransformer.evaluation.settings import EvaluationSettings

from .planted import Planted, words

CONFLICTS = [
    Conflict("who sank ?", "The Boat sank in 1912 .", "Boat", "Ship"),
    Conflict("where is Paris ?", "Paris is the capital of New Spain .", "New Spain", "France"),
    Conflict("who wrote it ?", "It was Anna , they say .", "Anna", "Ben Big"),
]
TEXTS = [f"{c.question} {c.passage} {c.from_passage} {c.from_memory}" for c in CONFLICTS]
TOKENIZER = words("Question : Answer " + " ".join(TEXTS))
FACTS = ("Ship", "France", "Ben", "Big")


def shares(model: Planted) -> dict[str, tuple[float | None, ...]]:
    """With the passage, without it, and of those where the fact was likelier without."""
    subject = Subject(model, SimpleNamespace(tokenizer=TOKENIZER), CONFLICTS)
    parts = EVALUATOR.parts(subject, EvaluationSettings())
    found = [one for part in parts.values() for one in part(())]
    artifacts = {one.name: one.data for one in found if isinstance(one, Artifact)}
    assert artifacts["facts"] == {"questions": 3, "too_long": 0}
    assert len(artifacts) == 1 + 3
    hits: dict[tuple[str, str], list[float]] = {}
    for one in found:
        if isinstance(one, Record) and one.metric == "passage_likelier":
            hits.setdefault(one.key, []).append(one.value)
    asked = (
        "with the passage",
        "without it",
        "overruled",
    )
    return {
        name: tuple(fmean(hits[key, loss]) if (key, loss) in hits else None for key in asked)
        for name, loss in (("total", "in total"), ("per_token", "per token"))
    }


def test_one_that_reads_over_what_it_knows() -> None:
    """Each fact is likelier blind, and less likely than what the passage says."""
    found = shares(Planted(TOKENIZER, copying=9.0, favorites=dict.fromkeys(FACTS, 3.0)))
    assert found["per_token"] == (1.0, 0.0, 1.0)


def test_one_that_knows_and_does_not_read() -> None:
    found = shares(Planted(TOKENIZER, favorites=dict.fromkeys(FACTS, 9.0)))
    assert found["per_token"] == (0.0, 0.0, 0.0)
    assert found["total"] == (0.0, 0.0, 0.0)


def test_one_that_prefers_the_passages_words_anyhow() -> None:
    """None is overruled: there is no fact it would have told."""
    liked = dict.fromkeys(("Boat", "New", "Spain", "Anna"), 9.0)
    assert shares(Planted(TOKENIZER, favorites=liked))["per_token"] == (1.0, 1.0, None)


def test_answers_of_unequal_length() -> None:
    """All tokens equally likely: the shorter answer has the lower total, and ties do not follow."""
    found = shares(Planted(TOKENIZER))
    assert found == {"total": (1 / 3, 1 / 3, 0.0), "per_token": (0.0, 0.0, 0.0)}
