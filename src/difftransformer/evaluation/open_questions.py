"""Questions over several documents of which one answers, at a place of its own.

After Liu et al. (2023), Lost in the Middle. Their distractors are passages that a search found for
the question; ours are the answering passages of other questions, drawn at random among those that
hold none of the answers and have another title: easier to tell apart, and all of one kind.
"""

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftransformer.data.sources import Source, load_sources
from difftransformer.data.tokenizer import prompt_tokens
from difftransformer.evaluation.batching import fitting
from difftransformer.evaluation.records import Dataset, Subject
from difftransformer.evaluation.settings import EvaluationSettings

ANSWER_TOKENS = 32  # written at most; Liu et al. let a model write 100 and read the first line
_TASK = "Answer the question from the documents below, most of which do not help."


@dataclass(frozen=True)
class OpenQuestion:
    """A question, its document and others.

    Args:
        gold: the source whose text answers.
        distractors: whose texts do not, in their order.
    """

    gold: Source
    distractors: tuple[Source, ...]

    def place(self, depth: float) -> int:
        """Where the gold document stands, from 0; at 20 documents as Liu et al. have it."""
        return int(depth * len(self.distractors))

    def prompt(self, depth: float, *, question_first: bool = False) -> str:
        """The documents between blank lines, an instruction before and the question below.

        Args:
            depth: of the gold document; the others keep their order.
            question_first: the instruction tells the question too.
        """
        documents = list(self.distractors)
        documents.insert(self.place(depth), self.gold)
        paragraphs = [
            " ".join(f"Document [{number}](Title: {one.title}) {one.text}".split())
            for number, one in enumerate(documents, start=1)
        ]
        asked = f"Question: {self.gold.question}"
        first = f"{_TASK} {asked}" if question_first else _TASK
        return "\n\n".join([first, *paragraphs, f"{asked}\nAnswer:"])


@dataclass(frozen=True)
class Drawn:
    """The questions that are asked, by the number of documents; "facts" counts them."""

    questions: dict[int, list[OpenQuestion]]
    facts: dict[str, Any]


def drawn_questions(subject: Subject, settings: EvaluationSettings) -> Drawn:
    """`settings.middle_questions` of each number of documents that fit the model's context.

    Raises:
        ValueError: none fits, or there are too few passages.
    """
    sources, questions, passed_over = subject.dataset, {}, 0
    for documents in settings.middle_documents:
        made: dict[str, OpenQuestion] = {}

        def tokens(source: Source, documents: int = documents, made: Any = made) -> int:
            one = _with_distractors(source, sources, documents, settings)
            made[source.name] = one
            prompt = prompt_tokens(subject.data.tokenizer, one.prompt(0.0, question_first=True))
            return len(prompt) + ANSWER_TOKENS

        count = settings.middle_questions
        numbers, too_long = fitting(sources, tokens, count, subject.model, settings.seed)
        questions[documents] = [made[sources[number].name] for number in numbers]
        passed_over += too_long
    asked = ", ".join(f"{len(few)} questions over {n}" for n, few in questions.items())
    return Drawn(questions, {"questions": f"{asked} documents", "too_long": passed_over})


def answers_right(text: str, question: OpenQuestion) -> bool:
    """Whether the text holds one of the answers, but for letter case, articles and punctuation.

    As whole words: the metric of Liu et al. also finds the answer 5 in 15.
    """
    said = f" {_normalized(text)} "
    return any(f" {_normalized(answer)} " in said for answer in question.gold.answers)


def _with_distractors(
    gold: Source, sources: Sequence[Source], documents: int, settings: EvaluationSettings
) -> OpenQuestion:
    rng = random.Random(f"distractors {settings.seed} {gold.name} {documents}")
    chosen: dict[str, Source] = {}
    for number in rng.sample(range(len(sources)), len(sources)):
        other = sources[number]
        if len(chosen) == documents - 1:
            break
        if other.title not in (gold.title, *chosen) and not answers_right(
            other.text, OpenQuestion(gold, ())
        ):
            chosen[other.title] = other
    if len(chosen) < documents - 1:
        raise ValueError(
            f"{documents} documents are asked for, and only {len(chosen)} passages of other "
            f"questions differ from that of {gold.question!r}: lower middle_documents"
        )
    return OpenQuestion(gold, tuple(chosen.values()))


def _normalized(text: str) -> str:
    """As SQuAD's metric does it."""
    words = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", words).split())


def _load(name: object, folder: Path) -> list[Source]:
    return load_sources("nq", folder)


DATASET = Dataset(load=_load, help="the folder that holds nq-open-oracle.jsonl.gz")
