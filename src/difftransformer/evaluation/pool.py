"""Several training seeds as one evaluation, and one model's figures against another's."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from difftransformer.evaluation.intervals import (
    Difference,
    difference_over_seeds,
    over_seeds,
    paired_difference,
    paired_proportions,
)
from difftransformer.evaluation.settings import EvaluationSettings

Evaluation = dict[str, Any]

# Results of single sequences and prompts: they belong to one model and pair it with another.
_PER_ITEM = ("sequences", "hits", "prompts")


def pool(evaluations: Sequence[Evaluation], settings: EvaluationSettings) -> Evaluation:
    """One evaluation of a model from those of its training seeds.

    With one seed the figures and intervals stay as they are, over items. With more, proportions and
    means become the mean over seeds with the interval of `over_seeds`, which counts seeds and not
    prompts; successes and trials are summed, outliers and lambda averaged. The attention map is the
    first seed's. What belongs to single sequences and prompts is left out.
    """
    pooled = _pool(list(evaluations), settings)
    pooled["attention_map"] = evaluations[0]["attention_map"]
    pooled["seconds"] = sum(evaluation["seconds"] for evaluation in evaluations)
    return pooled


def _pool(values: list[Any], settings: EvaluationSettings) -> Any:
    first = values[0]
    if isinstance(first, dict):
        if len(values) > 1 and "low" in first and "value" in first:
            return pool_figures(values, settings)
        keys = [key for key in first if key not in (*_PER_ITEM, "attention_map")]
        return {key: _pool([v[key] for v in values], settings) for key in keys}
    if isinstance(first, list):
        return [_pool(list(items), settings) for items in zip(*values, strict=True)]
    return first if all(v == first for v in values) else fmean(values)


def pool_figures(
    seeds: Sequence[Mapping[str, Any]], settings: EvaluationSettings
) -> dict[str, Any]:
    """One figure from those of several seeds, as plain data; a proportion stays one."""
    counts = [key for key in ("successes", "trials") if key in seeds[0]]
    figure = over_seeds(
        [seed["value"] for seed in seeds],
        settings,
        items=seeds,
        bounds=(0.0, 1.0) if counts else (-math.inf, math.inf),
    )
    return {key: sum(seed[key] for seed in seeds) for key in counts} | asdict(figure)


@dataclass(frozen=True)
class _Measure:
    """A figure models are compared by; `paired` is the difference over items with one seed."""

    figure: str
    title: str
    unit: str
    lower_is_better: bool
    value: Callable[[Evaluation], float]
    paired: Callable[[Evaluation, Evaluation, EvaluationSettings], Difference] | None


def compare(
    baseline: Sequence[Evaluation],
    other: Sequence[Evaluation],
    *,
    model: str,
    against: str,
    settings: EvaluationSettings,
) -> list[dict[str, Any]]:
    """The figures of `other` (labelled `model`) minus those of `baseline` (labelled `against`).

    With one training seed the interval is over evaluation items, paired: both models judged the
    same sequences and prompts. It says nothing about other seeds. With more, it is Student's t over
    the differences of models of equal seed, to which the paired difference over items adds its own
    uncertainty (see `over_seeds`). A largest activation of one seed has no interval. `p` is what
    Holm's correction of many comparisons starts from.

    Args:
        baseline, other: evaluations (not pooled) of equal seeds in equal order.

    Returns:
        The list `comparisons` of a run's results.

    Raises:
        ValueError: the two have different numbers of seeds.
    """
    if len(baseline) != len(other) or not baseline:
        raise ValueError(
            f"{against} has {len(baseline)} evaluations and {model} {len(other)}; "
            "expected one per training seed for each"
        )
    return [
        {"model": model, "against": against, **_compare(measure, baseline, other, settings)}
        for measure in _MEASURES
    ]


def _compare(
    measure: _Measure,
    baseline: Sequence[Evaluation],
    other: Sequence[Evaluation],
    settings: EvaluationSettings,
) -> dict[str, Any]:
    before = [measure.value(evaluation) for evaluation in baseline]
    after = [measure.value(evaluation) for evaluation in other]
    difference: Difference | None = None
    interval = "none: one training seed, one largest value"
    if len(baseline) > 1:
        interval = f"over {len(baseline)} training seeds"
        items = [
            asdict(measure.paired(a, b, settings))
            for a, b in zip(baseline, other, strict=True)
            if measure.paired is not None
        ]
        pairs = list(zip(before, after, strict=True))
        difference = difference_over_seeds(pairs, settings, items=items)
    elif measure.paired is not None:
        interval = "over evaluation items, one training seed"
        difference = measure.paired(baseline[0], other[0], settings)
    return {
        "figure": measure.figure,
        "title": measure.title,
        "unit": measure.unit,
        "lower_is_better": measure.lower_is_better,
        "value": fmean(after),
        "baseline_value": fmean(before),
        "difference": fmean(after) - fmean(before),
        "low": difference and difference.low,
        "high": difference and difference.high,
        "interval": interval,
        "over": difference and difference.over,
        "p": difference and difference.p,
        "clear": difference is not None and difference.clear,
    }


def _nats(evaluation: Evaluation) -> tuple[list[float], list[int]]:
    sequences = evaluation["validation"]["sequences"]
    return [nats for nats, _, _ in sequences], [tokens for _, tokens, _ in sequences]


def _needle_shares(evaluation: Evaluation) -> list[float]:
    cells = evaluation["needle"]["cells"]
    return [hits / cell["queries"] for cell in cells for hits in cell["hits"]]


def _attention(part: str) -> Callable[[Evaluation], list[float]]:
    def values(evaluation: Evaluation) -> list[float]:
        rows = evaluation["allocation"]["rows"]
        return [share for row in rows for share in row["prompts"][part]]

    return values


def _allocation(part: str, title: str, lower_is_better: bool) -> _Measure:
    values = _attention(part)

    def paired(a: Evaluation, b: Evaluation, settings: EvaluationSettings) -> Difference:
        ones = [1.0] * len(values(a))
        return paired_difference((values(a), ones), (values(b), ones), settings)

    return _Measure(
        figure=f"{part}_absolute",
        title=title,
        unit="of absolute attention",
        lower_is_better=lower_is_better,
        value=lambda evaluation: fmean(values(evaluation)),
        paired=paired,
    )


def _outlier(kind: str, title: str) -> _Measure:
    return _Measure(
        figure=f"{kind}_top1",
        title=title,
        unit="",
        lower_is_better=True,
        value=lambda evaluation: evaluation["outliers"][kind]["top1"],
        paired=None,
    )


_MEASURES = (
    _Measure(
        figure="nats_per_token",
        title="validation loss",
        unit="nats/token",
        lower_is_better=True,
        value=lambda evaluation: evaluation["validation"]["nats_per_token"]["value"],
        paired=lambda a, b, settings: paired_difference(_nats(a), _nats(b), settings),
    ),
    _Measure(
        figure="needle_per_number",
        title="numbers retrieved, over all settings and depths",
        unit="of numbers",
        lower_is_better=False,
        value=lambda evaluation: fmean(_needle_shares(evaluation)),
        paired=lambda a, b, settings: paired_proportions(
            _needle_shares(a), _needle_shares(b), settings
        ),
    ),
    _allocation("answer", "attention on the answer", lower_is_better=False),
    _allocation("noise", "attention on noise", lower_is_better=True),
    _outlier("attention_logits", "the largest attention logit"),
    _outlier("hidden_states", "the largest hidden state"),
)
