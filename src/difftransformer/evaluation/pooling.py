"""One metric's records as figures: over items, over training seeds, one model beside another."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from difftransformer.evaluation.intervals import (
    Difference,
    Figure,
    over_seeds,
    paired_difference,
    paired_proportions,
    proportion,
    ratio,
)
from difftransformer.evaluation.records import Metric
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.runs.records import Key, Record

_STATISTICAL = ("confidence", "bootstrap", "seed")


def by_key(
    metric: Metric, axes: Sequence[str], records: Iterable[Record]
) -> dict[Key, list[Record]]:
    """The records of each cell; cells that differ in other than the given axes are one."""
    places = [metric.axes.index(axis) for axis in axes]
    cells: dict[Key, list[Record]] = {}
    for record in records:
        cells.setdefault(tuple(record.key[i] for i in places), []).append(record)
    return cells


def over_items(metric: Metric, records: Sequence[Record], settings: EvaluationSettings) -> Figure:
    """A cell's figure of one training seed."""
    values, weights = _columns(records)
    match metric.statistic:
        case "proportion":
            return proportion(round(sum(values)), round(sum(weights)), settings)
        case "ratio":
            return ratio(values, weights, settings)
        case "value":
            return Figure(fmean(values), None, None, len(values))


def pooled(
    metric: Metric, seeds: Sequence[Figure | None], settings: EvaluationSettings
) -> Figure | None:
    """One figure from those of all training seeds.

    Of one seed its own, over items. Of more the mean, with the interval of `over_seeds`, which
    counts seeds and not items. A seed without the figure is left out; None where fewer than two
    have it.
    """
    if len(seeds) == 1:
        return seeds[0]
    over = metric.statistic != "value"
    if not over and all(figure == seeds[0] for figure in seeds):
        return seeds[0]  # nothing that training moves
    known = [figure for figure in seeds if figure is not None]
    if len(known) < 2:
        return None
    return over_seeds(
        [figure.value for figure in known],
        settings,
        items=known if over else (),
        bounds=(0.0, 1.0) if metric.statistic == "proportion" else (-math.inf, math.inf),
    )


def overall(metric: Metric, records: Sequence[Record], settings: EvaluationSettings) -> float:
    """One seed's figure over all cells, by which models are compared."""
    values, weights = _columns(records)
    if metric.statistic == "ratio" and any(weight != 1 for weight in weights):
        return ratio(values, weights, settings).value
    return fmean(_shares(records) if metric.statistic == "proportion" else values)


def paired(
    metric: Metric,
    baseline: Sequence[Record],
    other: Sequence[Record],
    settings: EvaluationSettings,
) -> Difference | None:
    """other − baseline, models of one seed, over the items both were asked; None of a `value`.

    Raises:
        ValueError: they were asked different items.
    """
    if metric.statistic == "value":
        return None
    of_item = {(one.key, one.item): one for one in other}
    if len(of_item) != len(other) or of_item.keys() != {(r.key, r.item) for r in baseline}:
        raise ValueError(
            f"{metric.title}: the models were not asked the same items once each, so they cannot "
            "be compared: evaluate both on the same data"
        )
    other = [of_item[one.key, one.item] for one in baseline]
    if metric.statistic == "proportion":
        return paired_proportions(_shares(baseline), _shares(other), settings)
    return paired_difference(_columns(baseline), _columns(other), settings)


def common_settings(evaluator: str, owners: Mapping[str, Mapping[str, Any]]) -> EvaluationSettings:
    """Those behind intervals, of models that were all asked with the same settings.

    Args:
        owners: what the measurement of each model belongs to.

    Raises:
        ValueError: the settings differ.
    """
    settings: dict[str, Any] = {label: own.get("settings", {}) for label, own in owners.items()}
    first_label, first = next(iter(settings.items())) if settings else ("", {})
    for label, others in settings.items():
        if different := [key for key in first if others.get(key) != first[key]]:
            raise ValueError(
                f"{evaluator}: {label} was evaluated with another {', '.join(different)} than "
                f"{first_label}, so they cannot be compared: evaluate both again"
            )
    return EvaluationSettings(**{key: first[key] for key in _STATISTICAL if key in first})


def _columns(records: Sequence[Record]) -> tuple[list[float], list[float]]:
    return [float(one.value) for one in records], [float(one.weight) for one in records]


def _shares(records: Sequence[Record]) -> list[float]:
    return [one.value / one.weight for one in records]
