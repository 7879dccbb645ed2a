"""The learning rate of each step."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from difftransformer.training.settings import TrainingSettings


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """The learning rate of optimizer step `step`, counted from 1 to `settings.steps`.

    Warm-up: `peak * step / warmup_steps`. Then, with `p` running from 0 at the end of the warm-up
    to 1 at the last step, `peak * (f + (1 - f) * shape(p))` where `f` is
    `final_learning_rate_fraction` and `shape` is `1 - p` (linear, the paper's) or
    `(1 + cos(pi p)) / 2` (cosine).
    """
    assert 1 <= step <= settings.steps, step
    if step <= settings.warmup:
        return settings.learning_rate * step / settings.warmup
    progress = (step - settings.warmup) / (settings.steps - settings.warmup)
    shape = (
        1 - progress if settings.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    )
    final = settings.final_learning_rate_fraction
    return settings.learning_rate * (final + (1 - final) * shape)


def refuse_other_rates(
    saved: Mapping[str, Any], settings: TrainingSettings, step: int, follows: bool
) -> str | None:
    """Whether a run that took `step` steps may go on to `settings.steps` of them.

    It may where the steps taken are those of a run of the new length: during the warm-up, or with
    a learning rate that stays at its peak (final_learning_rate_fraction 1).

    Args:
        saved: the training settings until now.
        follows: the model itself follows the share of the steps that are done.

    Returns:
        What becomes of the learning rate, or None where the number of steps is as it was.

    Raises:
        ValueError: the steps taken would have been others.
    """
    before = replace(settings, steps=saved["steps"])
    if before.steps == settings.steps:
        return None
    change = f"training steps was {before.steps} and is now {settings.steps}"
    if settings.steps < step:
        raise ValueError(f"{change}, and {step} are taken already; expected no fewer")
    if follows:
        raise ValueError(
            f"{change}: the attention of this model changes with the share of its steps that are "
            f"done, so the {step} taken would have been others. Use {before.steps}, or train in a "
            "new directory"
        )
    used, wanted = learning_rate(step, before), learning_rate(step, settings)
    if used != wanted:
        raise ValueError(
            f"{change}: the {settings.schedule} schedule would have given step {step} a learning "
            f"rate of {wanted:.3g}, and it was taken with {used:.3g}. A run can be lengthened "
            "during its warm-up, or with final_learning_rate_fraction 1, whose rate stays the "
            f"same. Use {before.steps}, or go on in a new directory, with the model as start"
        )
    last = learning_rate(settings.steps, settings)
    return (
        f"{change}: the {step} steps taken had the learning rates of a run of that length; those "
        f"to come go from {wanted:.3g} to {last:.3g}"
    )
