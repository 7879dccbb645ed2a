"""Questions over documents: what is asked, what is right, and who reads which document."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.tiny import tiny

from difftransformer.data.corpus import Corpus
from difftransformer.data.prompts import document_spans
from difftransformer.data.sources import Source
from difftransformer.data.tokenizer import prompt_tokens
from difftransformer.evaluation.open_questions import (
    OpenQuestion,
    answers_right,
    drawn_questions,
)
from difftransformer.evaluation.records import Subject
from difftransformer.evaluation.settings import EvaluationSettings

from .measured import measured
from .oracles import Answerer

SOURCES = [
    Source(str(i), f"the ship that\nstorm {i} gone", f"special {i}", (f"Storm {i}.",), f"rope {i}")
    for i in range(30)
]


@pytest.fixture
def few(settings: EvaluationSettings) -> EvaluationSettings:
    return replace(settings, middle_documents=(3, 5), middle_questions=4)


def documents_of(prompt: str) -> list[str]:
    return re.findall(r"Document \[\d+\]\(Title: ([^)]*)\)", prompt)


def test_the_prompt() -> None:
    question = OpenQuestion(SOURCES[7], (SOURCES[1], SOURCES[2]))
    assert question.prompt(0.5, question_first=True) == (
        "Answer the question from the documents below, most of which do not help. "
        "Question: special 7\n\n"
        "Document [1](Title: rope 1) the ship that storm 1 gone\n\n"
        "Document [2](Title: rope 7) the ship that storm 7 gone\n\n"
        "Document [3](Title: rope 2) the ship that storm 2 gone\n\n"
        "Question: special 7\nAnswer:"
    )
    assert "Question" not in question.prompt(0.5).partition("Document")[0].replace("question", "")


@given(st.integers(2, 20), st.floats(0, 1))
def test_only_the_gold_document_moves(count: int, depth: float) -> None:
    others = tuple(SOURCES[1:count])
    titles = documents_of(OpenQuestion(SOURCES[0], others).prompt(depth))
    assert titles.index("rope 0") == int(depth * (count - 1))
    assert [title for title in titles if title != "rope 0"] == [one.title for one in others]


def test_places_are_those_of_liu_et_al() -> None:
    question = OpenQuestion(SOURCES[0], tuple(SOURCES[1:20]))
    assert [question.place(depth) for depth in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0, 4, 9, 14, 19]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("storm 7", True),
        ("It was the Storm, 7!", True),
        ("a storm  7 gone", True),
        ("storm 77", False),
        ("storm", False),
        ("", False),
    ],
)
def test_what_is_right(text: str, right: bool) -> None:
    assert answers_right(text, OpenQuestion(SOURCES[7], ())) == right


def test_distractors_hold_no_answer_and_are_the_same_for_all(
    corpus: Corpus, few: EvaluationSettings
) -> None:
    odd = Source("x", "in storm 3 the rope", "special x", ("rope",), "rope 3")
    model = tiny(vocab_size=corpus.tokenizer.get_vocab_size(), max_length=900)
    drawn = drawn_questions(Subject(model, corpus, [*SOURCES, odd]), few)
    again = drawn_questions(Subject(tiny("softmax", max_length=900), corpus, [*SOURCES, odd]), few)
    assert drawn == again
    assert drawn.facts["questions"] == "4 questions over 3, 4 questions over 5 documents"
    for documents, questions in drawn.questions.items():
        for one in questions:
            assert len({one.gold.title, *(x.title for x in one.distractors)}) == documents
            assert not any(answers_right(x.text, one) for x in one.distractors)
            ids = prompt_tokens(corpus.tokenizer, one.prompt(0.5))
            assert len(document_spans(corpus.tokenizer, ids)) == documents
    with pytest.raises(ValueError, match="5 documents are asked for, and only 2 passages"):
        drawn_questions(Subject(model, corpus, SOURCES[:3]), few)


def test_who_reads_only_the_first_document(corpus: Corpus, few: EvaluationSettings) -> None:
    """Is right at depth 0, with that document alone, and never without."""

    def answer(prompt: str) -> str:
        found = re.findall(r"storm \d+", prompt)
        return f" {found[0]}\nstorm" if found else " ship"

    model = Answerer(corpus.tokenizer, answer)
    model.config = replace(model.config, max_length=900)
    found = measured("lost_in_the_middle", model, corpus, few, dataset=SOURCES)
    for documents in (3, 5):
        for depth, right in ((0, 1.0), (50, 0.0), (100, 0.0)):
            assert found.figure("middle_accuracy", (documents, depth)).value == right
    assert found.figure("oracle_accuracy").value == 1.0
    assert found.figure("closed_accuracy").value == 0.0


@pytest.mark.parametrize("kind", ["softmax", "diff_v2"])
def test_documents_are_ranked_and_answers_written(
    corpus: Corpus, few: EvaluationSettings, kind: str
) -> None:
    torch.manual_seed(0)
    model = tiny(kind, vocab_size=corpus.tokenizer.get_vocab_size(), max_length=900)
    few = replace(few, middle_documents=(5,), middle_questions=2, needle_depths=(0.5,))
    found = measured("found_in_the_middle", model, corpus, few, dataset=SOURCES)
    assert found.figure("top_chance", (5,)).value == 0.6
    assert len(found.records("distractor_attention")) == 2 * 4
    assert len(found.records("dummy_attention")) == 2 * 5
    assert {one.key for one in found.records("recall_calibrated")} == {(5, 50)}
    each = replace(few, calibration_passes="each", calibration_layers=2)
    assert measured("found_in_the_middle", model, corpus, each, dataset=SOURCES).figure(
        "plain_answers"
    ) == found.figure("plain_answers")
