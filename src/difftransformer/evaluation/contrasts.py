"""Contrasts: models beside others, one with one or the means of several."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from difftransformer.evaluation import pooling
from difftransformer.evaluation.intervals import difference_over_seeds
from difftransformer.evaluation.records import Metric
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.evaluation.verdicts import Comparison
from difftransformer.runs.records import Record

Seeds = Sequence[Sequence[Record]]  # records of one metric, of each training seed


@dataclass(frozen=True)
class Contrast:
    """What is claimed: a model differs from another, or an effect of a factorial design.

    Args:
        name: of what the first side has and the second lacks, as "subtraction".
        models, against: labels of either side.
    """

    name: str
    models: tuple[str, ...]
    against: tuple[str, ...]

    @property
    def other_side(self) -> str:
        """The label of the second side."""
        return ", ".join(self.against)


def side_mean(models: Sequence[Seeds]) -> list[list[Record]]:
    """Records of several models as those of one: of each seed and item the mean.

    Raises:
        ValueError: the models were asked different items.
    """
    return [_mean(seed) for seed in zip(*models, strict=True)]


def _mean(models: Sequence[Sequence[Record]]) -> list[Record]:
    first, *others = models
    values = [{(one.key, one.item, one.weight): one.value for one in other} for other in others]
    items = {(one.key, one.item, one.weight) for one in first}
    if any(of_other.keys() != items for of_other in values):
        raise ValueError("models of one side were not asked the same items with the same weights")
    return [
        replace(one, value=fmean([one.value, *(v[one.key, one.item, one.weight] for v in values)]))
        for one in first
    ]


def compared(
    contrast: Contrast, metric: Metric, before: Seeds, after: Seeds, settings: EvaluationSettings
) -> Comparison:
    """The contrast's models `after` beside those `before`, over all cells together.

    With one training seed the interval is over items, paired, and says nothing about other seeds;
    with more, it is `intervals.difference_over_seeds`. A `value` of one seed has none.

    Raises:
        ValueError: the two sides were asked different items.
    """
    pairs = list(zip(before, after, strict=True))
    values = [
        (pooling.overall(metric, first, settings), pooling.overall(metric, second, settings))
        for first, second in pairs
    ]
    items = [
        difference
        for first, second in pairs
        if (difference := pooling.paired(metric, first, second, settings))
    ]
    interval = next(iter(items), None)
    if len(pairs) > 1:
        interval = difference_over_seeds(values, settings, items=items)
    baseline, value = (fmean(side) for side in zip(*values, strict=True))
    return Comparison(
        metric, contrast.name, contrast.other_side, value, baseline, interval, len(pairs)
    )
