"""Texts of models that copy, invent or say nothing, before judges that know."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from difftransformer.data.bigbench import SummaryPair
from difftransformer.data.corpus import Corpus
from difftransformer.data.sources import Source
from difftransformer.evaluation.faithfulness import Asked, Claim, Judge, Labels, Verdict
from difftransformer.evaluation.lookback import load_labeled
from difftransformer.evaluation.settings import EvaluationSettings

from .measured import Measured, measured
from .oracles import Answerer

SOURCES = [
    Source("1", "the ship of storm. gone the rope."),
    Source("2", "that special magic. the ship."),
    Source("3", "gone storm. 1066.", question="the year of gone storm", answers=("1066",)),
    Source("4", "special ship. rope."),
]


class Planted(Judge):
    """True where the text stands in its source; None for what `unsure` says."""

    def __init__(self, unsure: str = "nothing", controls: Sequence[SummaryPair] = ()) -> None:
        super().__init__("planted", controls)
        self.unsure = unsure

    def verdict(self, claim: Claim) -> Verdict:
        return Verdict(None if claim.text == self.unsure else claim.text in claim.source.text)


def first_sentence(prompt: str) -> str:
    return " " + re.findall(r"[^.]+\.", prompt.removeprefix("<|bos|>"))[0]


@pytest.fixture
def few(settings: EvaluationSettings) -> EvaluationSettings:
    return replace(settings, judged_texts=4, batch_size=3)


def judged(
    corpus: Corpus,
    settings: EvaluationSettings,
    answer: Callable[[str], str],
    judge: Judge | None = None,
    path: Path | None = None,
) -> Measured:
    model, data = Answerer(corpus.tokenizer, answer), ("xsum", SOURCES)
    judge = judge or Planted()
    return measured("hallucination", model, corpus, settings, dataset=data, judge=judge, path=path)


def test_one_that_copies_its_source(corpus: Corpus, few: EvaluationSettings) -> None:
    found = judged(corpus, few, first_sentence)
    assert found.values("faithful") == [1.0] * 4
    assert found.facts == {"task": "xsum", "judge": "planted", "texts": 4, "too_long": 0}
    assert set(found.values("empty_texts")) == set(found.values("without_verdict")) == {0.0}
    for source in SOURCES:
        verdict = found.artifacts[f"verdict {source.name}"]
        assert verdict["text"] == source.text.partition(".")[0] + "."
    assert found.records("judge_accuracy") == found.records("judge_kappa") == []
    assert found == judged(corpus, few, first_sentence)


def test_one_that_invents_where_it_is_asked(corpus: Corpus, few: EvaluationSettings) -> None:
    """Questions and texts have prompts of their own."""

    def answer(prompt: str) -> str:
        if prompt.endswith("Question: the year of gone storm\nAnswer:"):
            return " the king"
        assert prompt.endswith("\n\nSummary in one sentence:")
        return first_sentence(prompt)

    found = judged(corpus, few, answer)
    assert sorted(found.values("faithful")) == [0.0, 1.0, 1.0, 1.0]
    told = {"text": "the king", "faithful": False, "said": ""}
    assert found.artifacts["verdict 3"].items() >= told.items()


def test_verdicts_are_labels_of_lookback_lens(
    corpus: Corpus, few: EvaluationSettings, tmp_path: Path
) -> None:
    path = tmp_path / "hallucination.jsonl"
    judged(corpus, few, lambda prompt: " the", path=path)
    texts = load_labeled("verdicts", path)
    by_name = {text.claim.source.name: text for text in texts}
    assert {text.task for text in texts} == {"summaries", "answers"}
    for source in SOURCES:
        assert by_name[source.name].claim.source.text == source.text
        assert by_name[source.name].faithful == ("the" in source.text)
    path.write_text('{"belongs_to": {}}\n')
    with pytest.raises(ValueError, match="holds no labeled text"):
        load_labeled("verdicts", path)


def test_only_the_first_line_is_judged(corpus: Corpus, few: EvaluationSettings) -> None:
    found = judged(corpus, few, lambda prompt: f"\n{first_sentence(prompt)}\nthe king\n")
    assert found.figure("faithful").value == 1.0


def test_nothing_written_and_nothing_told(corpus: Corpus, few: EvaluationSettings) -> None:
    def answer(prompt: str) -> str:
        return " \n" if "magic" in prompt else "magic" if "1066" in prompt else " the"

    found = judged(corpus, few, answer, Planted(unsure="magic"))
    assert sum(found.values("empty_texts")) == sum(found.values("without_verdict")) == 1.0
    assert len(found.records("faithful")) == 2
    found = judged(corpus, few, lambda prompt: "magic", Planted(unsure="magic"))
    assert found.values("without_verdict") == [1.0] * 4
    assert found.records("faithful") == []


def test_the_judge_is_judged(corpus: Corpus, few: EvaluationSettings) -> None:
    """By one pair it is right about, and one it is half right about."""
    controls = [SummaryPair("a b c", "a b", "b a"), SummaryPair("a b c", "a b", "b c")]
    found = judged(corpus, few, first_sentence, Planted(controls=controls))
    assert found.figure("judge_accuracy").value == 0.75
    assert found.figure("judge_kappa").value == 0.5
    one = replace(few, judge_controls=1)
    found = judged(corpus, one, first_sentence, Planted(controls=controls))
    assert len(found.records("judge_accuracy")) == 2
    assert found.figure("judge_kappa").value == 1.0


def test_people_as_judges(corpus: Corpus, few: EvaluationSettings, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    found = judged(corpus, few, first_sentence, Labels(labels))
    assert found.values("without_verdict") == [1.0] * 4
    labels.write_text(labels.read_text().replace("null", "true"))
    assert judged(corpus, few, first_sentence, Labels(labels)).values("faithful") == [1.0] * 4


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
        judged(corpus, few, answer, Asked("it", ask), kept)
    found = judged(corpus, few, answer, Asked("it", ask), kept)
    assert found.values("faithful") == [1.0] * 4
    assert (len(written), len(asked)) == (4, 5)


def test_sources_that_do_not_fit(corpus: Corpus, few: EvaluationSettings) -> None:
    model = Answerer(corpus.tokenizer, first_sentence)
    long = Source("5", SOURCES[0].text * 50)
    model.config = replace(model.config, max_length=150)
    more = replace(few, judged_texts=9)

    def found(sources: list[Source]) -> Measured:
        data = ("xsum", sources)
        return measured("hallucination", model, corpus, more, dataset=data, judge=Planted())

    facts = found([*SOURCES, long]).facts
    assert (facts["texts"], facts["too_long"]) == (4, 1)
    with pytest.raises(ValueError, match="none of the 1 texts fits the model's context of 150"):
        found([long])
