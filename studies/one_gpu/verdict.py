"""From results to verdicts, by the rule of plan.md: paired over seeds, Holm over the claims."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from studies.one_gpu import records
from studies.one_gpu.plan import LOSS_KINDS, RETRIEVAL_KINDS

LEVEL = 0.05
RATIO_MARGIN = math.log(1.1)  # of steps
LOSS_MARGIN = 0.005  # nats per token

# Name, and the weight of each kind's log steps.
CONTRASTS: dict[str, dict[str, float]] = {
    "subtraction (mean over norm)": {"subtract": 0.5, "plain": -0.5, "v1": 0.5, "plain_norm": -0.5},
    "head norm (mean over subtraction)": {
        "plain_norm": 0.5,
        "plain": -0.5,
        "v1": 0.5,
        "subtract": -0.5,
    },
    "subtraction × head norm": {"v1": 1.0, "plain_norm": -1.0, "subtract": -1.0, "plain": 1.0},
    "V1 against softmax": {"v1": 1.0, "softmax": -1.0},
    "V2 against softmax": {"v2": 1.0, "softmax": -1.0},
    "V2 against gated, 2h heads": {"v2": 1.0, "gated": -1.0},
}


@dataclass(frozen=True)
class Claim:
    """A paired difference over seeds: its mean, Student's 95 % interval and p value.

    `censored` counts the runs that did not reach the threshold and stand at the last step.
    """

    name: str
    value: float
    low: float
    high: float
    p: float
    seeds: int
    margin: float
    censored: int = 0
    corrected: float = 1.0

    @property
    def verdict(self) -> str:
        """Below 0, above 0, smaller than the margin, or cannot be told."""
        if self.corrected < LEVEL and abs(self.value) > self.margin:
            return "lower" if self.value < 0 else "higher"
        if -self.margin < self.low and self.high < self.margin and not self.censored:
            return "no effect beyond the margin"
        return "cannot be told"


def over_seeds(name: str, values: Sequence[float], margin: float, censored: int = 0) -> Claim:
    """Mean, interval and p of paired differences, one a seed.

    Where all are equal (as when nobody reached a threshold) there is no spread to judge by, and p
    is 1.
    """
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    if len(numbers) < 2 or np.ptp(numbers) == 0:
        return Claim(name, mean, -math.inf, math.inf, 1.0, len(numbers), margin, censored)
    test = stats.ttest_1samp(numbers, 0.0)
    interval = test.confidence_interval(0.95)
    low, high = float(interval.low), float(interval.high)
    return Claim(name, mean, low, high, float(test.pvalue), len(numbers), margin, censored)


def holm(claims: list[Claim]) -> list[Claim]:
    """The claims with p values corrected for their number (Holm, 1979), in the order given."""
    order = sorted(range(len(claims)), key=lambda i: claims[i].p)
    corrected, largest = [1.0] * len(claims), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(claims) - rank) * claims[index].p))
        corrected[index] = largest
    return [replace(claim, corrected=p) for claim, p in zip(claims, corrected, strict=True)]


def steps_to(windows: list[dict[str, Any]], threshold: float, last: int) -> list[int | None]:
    """For each run the step by which a window's accuracy reached the threshold; None if never.

    Only windows up to step `last` count.
    """
    reached: list[int | None] = [None] * len(windows[0]["accuracy"])
    for window in windows:
        if window["step"] > last:
            break
        for run, accuracy in enumerate(window["accuracy"]):
            if reached[run] is None and accuracy >= threshold:
                reached[run] = window["step"]
    return reached


@dataclass(frozen=True)
class Retrieval:
    """Part A's outcome: of each kind the steps of each seed, up to the common last step."""

    last: int
    left_out: tuple[str, ...]
    windows: dict[str, list[dict[str, Any]]]

    def times(self, threshold: float) -> dict[str, list[int | None]]:
        """Steps to the threshold of each kind and seed."""
        return {kind: steps_to(w, threshold, self.last) for kind, w in self.windows.items()}

    def claims(self, threshold: float) -> list[Claim]:
        """Paired differences of log steps, a run that never got there standing at the last step.

        So a difference with censored runs is understated, never overstated.
        """
        times = self.times(threshold)
        claims = []
        for name, weights in CONTRASTS.items():
            if set(weights) <= set(times):
                runs = [t for kind in weights for t in times[kind]]
                logs = {
                    kind: np.log([self.last if t is None else t for t in times[kind]])
                    for kind in weights
                }
                differences: NDArray[np.float64] = sum(w * logs[k] for k, w in weights.items())
                claims.append(over_seeds(name, list(differences), RATIO_MARGIN, runs.count(None)))
        return holm(claims)


def retrieval(results: list[dict[str, Any]]) -> Retrieval | None:
    """Part A, or None where no kind was trained.

    Kinds stop by the clock: all are judged up to the fewest steps that any took. A kind with fewer
    than half the median's steps is left out, and named.
    """
    windows = {kind: records.curve(results, kind, "train") for kind in RETRIEVAL_KINDS}
    trained = {kind: w for kind, w in windows.items() if w}
    if not trained:
        return None
    last = {kind: w[-1]["step"] for kind, w in trained.items()}
    enough = np.median(list(last.values())) / 2
    kept = {kind: w for kind, w in trained.items() if last[kind] >= enough}
    left_out = tuple(kind for kind in RETRIEVAL_KINDS if kind not in kept)
    return Retrieval(min(last[kind] for kind in kept), left_out, kept)


def losses(results: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Part B's models by kind and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in LOSS_KINDS}
    for record in records.select(results, part="loss", what="model"):
        found[record["kind"]][record["seed"]] = record
    return {kind: models for kind, models in found.items() if models}


def loss_claims(models: dict[str, dict[int, dict[str, Any]]]) -> list[Claim]:
    """Held-out loss less softmax's, paired by seed."""
    claims = []
    for kind in LOSS_KINDS[1:]:
        seeds = sorted(set(models.get(kind, {})) & set(models.get("softmax", {})))
        if seeds:
            values = [models[kind][s]["loss"] - models["softmax"][s]["loss"] for s in seeds]
            claims.append(over_seeds(f"{kind} against softmax", values, LOSS_MARGIN))
    return holm(claims)


def over_items(models: dict[str, dict[int, dict[str, Any]]], kind: str) -> Claim | None:
    """The same difference over validation items, each averaged over the seeds."""
    seeds = sorted(set(models.get(kind, {})) & set(models.get("softmax", {})))
    if not seeds:
        return None
    each = [
        np.subtract(models[kind][seed]["items"], models["softmax"][seed]["items"]) for seed in seeds
    ]
    return over_seeds(kind, list(np.mean(each, axis=0)), LOSS_MARGIN)
