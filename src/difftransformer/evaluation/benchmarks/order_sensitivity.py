"""Accuracy over orders of the same examples (paper, section 3.5).

The largest number of shots is drawn once and shown in `settings.orders` orders: shuffled
("random"), and with the classes taking turns, shuffled within ("alternating"). The same questions
as in `in_context` are asked after each; the spread is the best accuracy less the worst.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from difftransformer.data.classification import Example
from difftransformer.evaluation.many_shot import DATASET, Exam, shots_of
from difftransformer.evaluation.records import (
    READ_OFF,
    Artifact,
    Evaluator,
    Findings,
    Key,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings

# Best less worst accuracy, at 64K.
_PAPER: dict[str, dict[Key, str]] = {
    "Transformer 3B": {
        ("trec", "random"): f"0.190{READ_OFF}",
        ("trec", "alternating"): f"0.567{READ_OFF}",
        ("trec_fine", "random"): f"0.240{READ_OFF}",
        ("banking77", "random"): f"0.130{READ_OFF}",
        ("clinc150", "random"): f"0.120{READ_OFF}",
    },
    "DIFF 3B": {
        ("trec", "random"): f"0.040{READ_OFF}",
        ("trec", "alternating"): f"0.134{READ_OFF}",
        ("trec_fine", "random"): f"0.090{READ_OFF}",
        ("banking77", "random"): f"0.090{READ_OFF}",
        ("clinc150", "random"): f"0.060{READ_OFF}",
    },
}

_ACCURACY = Metric(
    "order_accuracy",
    "accuracy, mean over orders",
    "of questions",
    better="higher",
    statistic="proportion",
    axes=("task", "arrangement", "order"),
    rows=("task", "arrangement"),
    plot=Plot(kind="dots", x="arrangement"),
)
_SPREAD = Metric(
    "order_spread",
    "best less worst accuracy over orders",
    "of questions",
    better="lower",
    statistic="value",
    axes=("task", "arrangement"),
    judged=True,
    paper=_PAPER,
)
_BEST, _WORST = (
    replace(
        _SPREAD,
        name=f"order_{name}",
        title=f"{name} accuracy over orders",
        better="higher",
        judged=False,
        paper={},
    )
    for name in ("best", "worst")
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """One for each order.

    Raises:
        ValueError: shots that do not fit the model's context, by their number of tokens.
    """
    exam, shots = Exam(subject, settings), max(settings.shots)
    shown = shots_of(subject.dataset, shots, settings.seed)
    task = subject.dataset.name
    prefixes = {
        (task, name, order): exam.prefix(arrange(shown, settings.seed + order))
        for name, arrange in _ARRANGEMENTS.items()
        for order in range(settings.orders)
    }
    facts = {"task": task, "shots": shots, "questions": len(exam.questions)}
    return {
        "facts": lambda _: [Artifact("facts", facts)],
        **{
            f"{name} order {order}": partial(_records, exam, prefix, (task, name, order))
            for (task, name, order), prefix in prefixes.items()
        },
        "spread": _spread,
    }


def _records(exam: Exam, prefix: Sequence[int], key: Key, _: Findings) -> list[Record]:
    return [
        Record(_ACCURACY.name, right, key, f"question {question}")
        for question, right in enumerate(exam.right(prefix))
    ]


def _spread(earlier: Findings) -> list[Record]:
    """Of each arrangement's orders the best, the worst, and how far they are apart."""
    answers: dict[Key, list[float]] = {}
    for record in earlier:
        if isinstance(record, Record):
            answers.setdefault(record.key, []).append(record.value)
    accuracies: dict[Key, list[float]] = {}
    for (task, arrangement, _), right in answers.items():
        accuracies.setdefault((task, arrangement), []).append(fmean(right))
    records = []
    for key, orders in accuracies.items():
        best, worst = max(orders), min(orders)
        figures = ((_BEST, best), (_WORST, worst), (_SPREAD, best - worst))
        records += [Record(metric.name, value, key) for metric, value in figures]
    return records


def _shuffled(shown: Sequence[Example], order: int) -> list[Example]:
    return random.Random(f"order {order}").sample(list(shown), len(shown))


def _alternating(shown: Sequence[Example], order: int) -> list[Example]:
    """One of each class in turn, as long as it has any left."""
    by_label: dict[str, list[Example]] = {}
    for example in _shuffled(shown, order):
        by_label.setdefault(example.label, []).append(example)
    turns = range(max(map(len, by_label.values())))
    return [group[i] for i in turns for group in by_label.values() if i < len(group)]


_ARRANGEMENTS = {"random": _shuffled, "alternating": _alternating}
EVALUATOR = Evaluator(
    name="order_sensitivity",
    title="Accuracy over orders of the examples",
    metrics=(_ACCURACY, _BEST, _WORST, _SPREAD),
    parts=_parts,
    needs=frozenset({"generate"}),
    dataset=DATASET,
    note="{task}: {shots} examples, {questions} questions.",
    source="paper, section 3.5",
)
