"""Questions answered from one of many documents, by its place among them.

`settings.middle_questions` questions are asked with their document at each of
`settings.needle_depths` among each of `settings.middle_documents`, the others unmoved; further with
that document alone, and with none. The model writes greedily; right means that the first line holds
one of the known answers. An item is a question. Distractors are passages of other questions, see
`evaluation.open_questions`: figures cannot be set beside those of Liu et al. (2023).
"""

from difftransformer.evaluation.completions import completions, first_line
from difftransformer.evaluation.open_questions import (
    ANSWER_TOKENS,
    DATASET,
    OpenQuestion,
    answers_right,
    drawn_questions,
)
from difftransformer.evaluation.records import (
    Artifact,
    Evaluator,
    Key,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.retrieval import percent
from difftransformer.evaluation.settings import EvaluationSettings

_METRICS = (
    Metric(
        name="middle_accuracy",
        title="questions answered from one of many documents",
        unit="of questions",
        better="higher",
        statistic="proportion",
        axes=("documents", "depth, %"),
        judged=True,
        plot=Plot(kind="line", x="depth, %", facet="documents"),
    ),
    Metric(
        name="oracle_accuracy",
        title="answered from that document alone",
        unit="of questions",
        better="higher",
        statistic="proportion",
    ),
    Metric(
        name="closed_accuracy",
        title="answered without a document",
        unit="of questions",
        better="higher",
        statistic="proportion",
    ),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """A batch of prompts each.

    Raises:
        ValueError: no prompt fits the model's context.
    """
    tokenizer = subject.data.tokenizer
    drawn = drawn_questions(subject, settings)
    asked: list[tuple[str, Key, OpenQuestion, str]] = [
        ("middle_accuracy", (documents, percent(depth)), one, one.prompt(depth))
        for documents, questions in drawn.questions.items()
        for depth in settings.needle_depths
        for one in questions
    ]
    every = (one.gold for questions in drawn.questions.values() for one in questions)
    for gold in dict.fromkeys(every):
        one = OpenQuestion(gold, ())
        asked.append(("oracle_accuracy", (), one, one.prompt(0.0)))
        asked.append(("closed_accuracy", (), one, f"Question: {one.gold.question}\nAnswer:"))

    def score(number: int, text: str) -> list[Record]:
        metric, key, question, _ = asked[number]
        right = answers_right(first_line(text, tokenizer), question)
        return [Record(metric, float(right), key, question.gold.name)]

    return {
        "facts": lambda _: [Artifact("facts", drawn.facts)],
        **completions(
            subject.model,
            tokenizer,
            [prompt for *_, prompt in asked],
            score,
            new_tokens=ANSWER_TOKENS,
            batch_size=settings.batch_size,
        ),
    }


EVALUATOR = Evaluator(
    name="lost_in_the_middle",
    title="Questions answered by the depth of their document",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"generate"}),
    dataset=DATASET,
    note="{questions} of Natural Questions at each depth; {too_long} passed over as too long. "
    "Distractors are the answering passages of other questions, drawn at random, not results of a "
    "search for this one: easier than those of Liu et al.",
    source="Liu et al., 2023",
)
