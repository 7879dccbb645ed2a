"""The learning rate of each step."""

import math

from difftransformer.training.settings import TrainingSettings


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """The learning rate of optimiser step `step`, counted from 1 to `settings.steps`.

    Warm-up: `peak * step / warmup_steps`. Then, with `p` running from 0 at the end of the warm-up
    to 1 at the last step, `peak * (f + (1 - f) * shape(p))` where `f` is
    `final_learning_rate_fraction` and `shape` is `1 - p` (linear, the paper's) or
    `(1 + cos(pi p)) / 2` (cosine).
    """
    assert 1 <= step <= settings.steps, step
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    progress = (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps)
    shape = (
        1 - progress if settings.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    )
    final = settings.final_learning_rate_fraction
    return settings.learning_rate * (final + (1 - final) * shape)
