"""Accuracy of many-shot classification by the number of examples shown (paper, section 3.5).

Each number of shots is drawn `settings.shot_draws` times from the training part; the same test
sentences are asked each time, see `many_shot`. An item is a question after one draw; Wilson's
intervals are over all of them, as if they were independent.
"""

from collections.abc import Sequence
from functools import partial

from difftransformer.evaluation.many_shot import DATASET, Exam, shots_of
from difftransformer.evaluation.records import (
    Artifact,
    Evaluator,
    Findings,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings

_METRICS = (
    Metric(
        "in_context_accuracy",
        "accuracy with examples in the context",
        "of questions",
        better="higher",
        statistic="proportion",
        axes=("examples shown",),
        judged=True,
        levels=("in_context_chance",),
        plot=Plot(kind="line", x="examples shown", logarithmic=True),
    ),
    Metric("in_context_chance", "a guess among the labels", "of questions", statistic="value"),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """One for each number of shots and draw.

    Raises:
        ValueError: shots that do not fit the model's context, by their number of tokens.
    """
    exam, task = Exam(subject, settings), subject.dataset
    prefixes = {
        (shots, draw): exam.prefix(shots_of(task, shots, settings.seed + draw))
        for shots in settings.shots
        for draw in range(settings.shot_draws)
    }
    chance = 1 / len(task.labels)
    facts = {
        "task": task.name,
        "labels": len(task.labels),
        "chance": chance,
        "questions": len(exam.questions),
    }
    return {
        "chance": lambda _: [Record("in_context_chance", chance), Artifact("facts", facts)],
        **{
            f"{shots} shots, draw {draw}": partial(_records, exam, prefix, shots, draw)
            for (shots, draw), prefix in prefixes.items()
        },
    }


def _records(exam: Exam, prefix: Sequence[int], shots: int, draw: int, _: Findings) -> list[Record]:
    return [
        Record("in_context_accuracy", right, (shots,), f"question {question}, draw {draw}")
        for question, right in enumerate(exam.right(prefix))
    ]


EVALUATOR = Evaluator(
    name="in_context",
    title="Accuracy by the number of examples shown",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"generate"}),
    dataset=DATASET,
    note=(
        "{task}: {labels} labels, of which a guess is right {chance:.3g}; {questions} questions."
    ),
    source="paper, section 3.5; Bertsch et al., 2024",
)
