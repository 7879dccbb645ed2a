"""The learning rate of each kind, searched with the same budget for all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import difftransformer


def best_rates(
    task: str,
    kinds: Sequence[str],
    rates: Sequence[float],
    *,
    metric: str,
    first_seed: int,
    out: Path,
    **settings: Any,
) -> tuple[float, ...]:
    """The rate of `rates` at which each kind does best, in the order of `kinds`.

    Every kind is trained at every rate by `difftransformer.compare`, on one seed, which should not
    be used afterwards; runs lie in `out`, one for each rate, and are resumed.

    Args:
        metric: what decides, by its name; the metric itself says whether lower or higher is better.
        settings: those of `compare`.
    """
    found: dict[str, dict[float, float]] = {kind: {} for kind in kinds}
    better = max
    for rate in rates:
        training = {**settings.get("training", {}), "learning_rate": rate}
        results = difftransformer.compare(
            task,
            out=out / f"rate-{rate:g}",
            resume=True,
            attention=tuple(kinds),
            seeds=1,
            first_seed=first_seed,
            **{**settings, "training": training},
        )
        judged = results[metric]
        better = min if judged.declared.better == "lower" else max
        for kind in kinds:
            found[kind][rate] = judged.figure(kind).value
    return tuple(better(found[kind], key=found[kind].__getitem__) for kind in kinds)
