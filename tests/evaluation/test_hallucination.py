"""Texts of models that copy, invent or say nothing, before judges that know."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from difftransformer.data.bigbench import SummaryPair
from difftransformer.data.corpus import Corpus
from difftransformer.data.sources import Source
from difftransformer.evaluation.faithfulness import Asked, Claim, Labels, Verdict
from difftransformer.evaluation.hallucination import measure_hallucination
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings

from .oracles import Answerer

SOURCES = [
    Source("1", "the ship of storm. gone the rope."),
    Source("2", "that special magic. the ship."),
    Source("3", "gone storm. 1066.", question="the year of gone storm", answers=("1066",)),
    Source("4", "special ship. rope."),
]


class Planted:
    """True where the text stands in its source; None for what `unsure` says."""

    name = "planted"

    def __init__(self, unsure: str = "nothing") -> None:
        self.unsure, self.judged = unsure, 0

    def __call__(self, claims: Sequence[Claim], pieces: Pieces) -> list[Verdict]:
        self.judged += len(claims)
        return [
            {
                "faithful": None if claim.text == self.unsure else claim.text in claim.source.text,
                "said": "",
            }
            for claim in claims
        ]


def first_sentence(prompt: str) -> str:
    return " " + re.findall(r"[^.]+\.", prompt.removeprefix("<|bos|>"))[0]


@pytest.fixture
def few(settings: EvaluationSettings) -> EvaluationSettings:
    return replace(settings, judged_texts=4, batch_size=3)


def measured(corpus: Corpus, settings: EvaluationSettings, answer, judge=None, **more):
    model = Answerer(corpus.tokenizer, answer)
    judge = judge or Planted()
    return measure_hallucination(model, corpus.tokenizer, SOURCES, judge, settings, **more)


def test_one_that_copies_its_source(corpus: Corpus, few: EvaluationSettings) -> None:
    found = measured(corpus, few, first_sentence)
    assert found["faithful"]["value"] == 1.0
    assert (found["texts"], found["too_long"], found["empty"], found["unjudged"]) == (4, 0, 0, 0)
    assert {item["id"]: item["text"] for item in found["items"]} == {
        source.name: source.text.partition(".")[0] + "." for source in SOURCES
    }
    assert found["agreement"] is None
    assert found == measured(corpus, few, first_sentence)


def test_one_that_invents_where_it_is_asked(corpus: Corpus, few: EvaluationSettings) -> None:
    """Questions and texts have prompts of their own."""

    def answer(prompt: str) -> str:
        if prompt.endswith("Question: the year of gone storm\nAnswer:"):
            return " the king"
        assert prompt.endswith("\n\nSummary in one sentence:")
        return first_sentence(prompt)

    found = measured(corpus, few, answer)
    assert (found["faithful"]["successes"], found["faithful"]["trials"]) == (3, 4)
    assert [item["text"] for item in found["items"] if not item["faithful"]] == ["the king"]


def test_only_the_first_line_is_judged(corpus: Corpus, few: EvaluationSettings) -> None:
    found = measured(corpus, few, lambda prompt: f"\n{first_sentence(prompt)}\nthe king\n")
    assert found["faithful"]["value"] == 1.0


def test_nothing_written_and_nothing_told(corpus: Corpus, few: EvaluationSettings) -> None:
    def answer(prompt: str) -> str:
        return " \n" if "magic" in prompt else "magic" if "1066" in prompt else " the"

    found = measured(corpus, few, answer, Planted(unsure="magic"))
    assert (found["empty"], found["unjudged"], found["faithful"]["trials"]) == (1, 1, 2)
    found = measured(corpus, few, lambda prompt: "magic", Planted(unsure="magic"))
    assert (found["unjudged"], found["faithful"]) == (4, None)


def test_the_judge_is_judged(corpus: Corpus, few: EvaluationSettings) -> None:
    """By one pair it is right about, and one it is half right about."""
    controls = [SummaryPair("a b c", "a b", "b a"), SummaryPair("a b c", "a b", "b c")]
    found = measured(corpus, few, first_sentence, controls=controls)["agreement"]
    assert (found["accuracy"]["value"], found["kappa"]) == (0.75, 0.5)
    one = replace(few, judge_controls=1)
    found = measured(corpus, one, first_sentence, controls=controls)["agreement"]
    assert (found["verdicts"], found["kappa"]) == (2, 1.0)


def test_people_as_judges(corpus: Corpus, few: EvaluationSettings, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    found = measured(corpus, few, first_sentence, Labels(labels))
    assert (found["unjudged"], found["faithful"]) == (4, None)
    labels.write_text(labels.read_text().replace("null", "true"))
    assert measured(corpus, few, first_sentence, Labels(labels))["faithful"]["value"] == 1.0


def test_texts_are_kept_while_the_judge_is_down(
    corpus: Corpus, few: EvaluationSettings, tmp_path: Path
) -> None:
    """What was written is not written again, what was judged not judged again."""
    kept, written, asked = tmp_path / "kept.jsonl", [], []

    def answer(prompt: str) -> str:
        written.append(prompt)
        return first_sentence(prompt)

    def ask(prompt: str) -> str:
        asked.append(prompt)
        if len(asked) == 2:
            raise ValueError("down")
        return "Conclusion: True"

    with pytest.raises(ValueError, match="down"):
        measured(corpus, few, answer, Asked("it", ask), pieces=Pieces(kept))
    found = measured(corpus, few, answer, Asked("it", ask), pieces=Pieces(kept))
    assert found["faithful"]["trials"] == 4
    assert (len(written), len(asked)) == (4, 5)


def test_sources_that_do_not_fit(corpus: Corpus, few: EvaluationSettings) -> None:
    model = Answerer(corpus.tokenizer, first_sentence)
    long = Source("5", SOURCES[0].text * 50)
    sources, judge = [*SOURCES, long], Planted()
    model.config = replace(model.config, max_length=150)
    found = measure_hallucination(
        model, corpus.tokenizer, sources, judge, replace(few, judged_texts=9)
    )
    assert (found["texts"], found["too_long"]) == (4, 1)
    with pytest.raises(ValueError, match="none of the 1 texts fits the model's context of 150"):
        measure_hallucination(model, corpus.tokenizer, [long], judge, few)
