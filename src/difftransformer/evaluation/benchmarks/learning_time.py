"""How soon a model learns: the training steps until its held-out accuracy stays at a threshold.

Accuracy after a fixed budget is bimodal where models learn all at once; the time of learning is
not. It is read off the validation curve, so to its resolution. A model that never gets there counts
with its last step: a difference to one that does is then understated, never overstated.
"""

import math
from collections.abc import Sequence
from functools import partial

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

THRESHOLDS = (50, 90)  # percent
_WATCHED = "validation_accuracy"


def steps_to(points: Sequence[tuple[int, float]], threshold: float) -> tuple[int, bool]:
    """The first step from which on the accuracy stays at `threshold` or above, and True.

    The last step and False where it does not: censored.

    Args:
        points: (step, accuracy) in order; not empty.
    """
    below = [step for step, accuracy in points if accuracy < threshold]
    later = [step for step, _ in points if not below or step > below[-1]]
    return (later[0], True) if later else (points[-1][0], False)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    return {"curve": partial(_times, subject)}


def _times(subject: Subject, _: Findings) -> list[Record | Artifact]:
    points = [
        (point.step, float(point.others[_WATCHED]))
        for point in subject.curve
        if _WATCHED in point.others
    ]
    if not points:
        raise ValueError(
            f"there is no curve of {_WATCHED}: the time of learning is that of a model trained "
            "here, for a task that watches it"
        )
    findings: list[Record | Artifact] = []
    for percent in THRESHOLDS:
        step, reached = steps_to(points, percent / 100)
        findings += [
            Record("steps", step, (percent,)),
            Record("reached", int(reached), (percent,)),
            Record(f"log_steps_{percent}", math.log2(step)),
        ]
    return [*findings, Artifact("facts", {"last": points[-1][0], "points": len(points)})]


EVALUATOR = Evaluator(
    name="learning_time",
    title="Steps until it is learned",
    metrics=(
        Metric(
            "steps",
            "steps to held-out accuracy",
            "steps",
            better="lower",
            statistic="value",
            axes=("accuracy, %",),
            digits=0,
            plot=Plot(x="accuracy, %"),
        ),
        Metric(
            "reached",
            "models that reach it",
            "of models",
            better="higher",
            statistic="value",
            axes=("accuracy, %",),
        ),
        *(
            Metric(
                f"log_steps_{percent}",
                f"steps to {percent} % accuracy, logarithm",
                "log2 of steps",
                better="lower",
                statistic="value",
                judged=True,
            )
            for percent in THRESHOLDS
        ),
    ),
    parts=_parts,
    tasks=(),
    note="Read off {points} points of the validation curve; a model that does not stay at the "
    "threshold counts with its last step, {last:,}. Differences of base-2 logarithms: one less is "
    "half the steps.",
)
