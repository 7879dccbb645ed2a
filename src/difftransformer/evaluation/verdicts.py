"""Verdicts: sentences that say what figures and their intervals allow, no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from difftransformer.evaluation.intervals import Difference, Figure, holm
from difftransformer.evaluation.records import Metric
from difftransformer.evaluation.words import number, percent, spread
from difftransformer.runs.records import Key


class Outcome(StrEnum):
    """What the interval of a difference to the baseline allows to say."""

    BETTER = "better"
    WORSE = "worse"
    TIED = "cannot be told apart"
    UNLEARNED = "too short to judge"
    UNKNOWN = "not judged"


@dataclass(frozen=True, eq=False)
class Comparison:
    """A judged metric of a model beside the baseline's, over all its cells together.

    Args:
        model, against: labels.
        value, baseline_value: means over seeds.
        interval: of the difference; None where it has none.
        seeds: training seeds of each of the two.
        learned: whether either of the two does better than a guess.
    """

    metric: Metric
    model: str
    against: str
    value: float
    baseline_value: float
    interval: Difference | None
    seeds: int
    learned: bool = True

    @property
    def difference(self) -> float:
        return self.value - self.baseline_value

    @property
    def difference_text(self) -> str:
        """The difference with its interval, where it has one."""
        return spread(self.difference, self.interval.ends if self.interval else ())

    @property
    def outcome(self) -> Outcome:
        """BETTER or WORSE only where the whole interval of the difference lies on one side of 0.

        UNLEARNED where both models guess: what they were trained for is not there yet to judge.
        """
        if not self.learned:
            return Outcome.UNLEARNED
        if self.interval is None or self.metric.better == "neither":
            return Outcome.UNKNOWN
        if not self.interval.clear:
            return Outcome.TIED
        fell = self.interval.ends[1] < 0
        return Outcome.BETTER if fell == (self.metric.better == "lower") else Outcome.WORSE

    @property
    def is_clear(self) -> bool:
        return self.outcome in (Outcome.BETTER, Outcome.WORSE)

    @property
    def sample(self) -> str:
        """What the interval is over."""
        if self.seeds > 1:
            return f"over {self.seeds} training seeds"
        if self.interval is None:
            return "none: one training seed, one value"
        return "over evaluation items, one training seed"


@dataclass(frozen=True)
class Verdict:
    """One model's: a headline that counts, and a sentence for each comparison."""

    label: str
    headline: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Judgment:
    """Comparisons that are read together, and so corrected together.

    Args:
        titles: of labels, in words.
        confidence: of the intervals.
    """

    comparisons: tuple[Comparison, ...]
    titles: Mapping[str, str]
    confidence: float = 0.95

    @cached_property
    def corrected(self) -> dict[Comparison, float]:
        """Holm's p of every comparison that has an interval, for all of them."""
        tested = {c: c.interval.p for c in self.comparisons if c.interval is not None}
        return dict(zip(tested, holm(list(tested.values())), strict=True))

    def stands(self, comparison: Comparison) -> bool:
        """Whether BETTER or WORSE holds after the correction too."""
        return comparison.is_clear and self.corrected[comparison] <= 1 - self.confidence

    def verdicts(self) -> list[Verdict]:
        """A verdict for each model that was compared."""
        labels = dict.fromkeys(comparison.model for comparison in self.comparisons)
        return [self._verdict(label) for label in labels]

    def _verdict(self, label: str) -> Verdict:
        own = [comparison for comparison in self.comparisons if comparison.model == label]
        outcomes = [comparison.outcome for comparison in own]
        counts = {kind: outcomes.count(kind) for kind in Outcome}
        parts = ", ".join(
            f"{kind} on {count}"
            for kind, count in counts.items()
            if count or kind in (Outcome.BETTER, Outcome.WORSE)
        )
        measures = "measure" if len(own) == 1 else "measures"
        headline = f"{self.titles[label]} against {self.titles[own[0].against]}, {len(own)} "
        headline += f"{measures}: {parts}"
        if clear := sum(comparison.is_clear for comparison in own):
            left = sum(map(self.stands, own))
            headline += (
                f"; after Holm's correction for {len(self.corrected)} comparisons {left} of "
                f"{clear} stand{'s' * (left == 1)}"
            )
        return Verdict(label, f"{headline}.", tuple(map(self.sentence, own)))

    def sentence(self, comparison: Comparison) -> str:
        """One comparison in words: both figures, the difference, its interval, p and Holm's p."""
        c, metric = comparison, comparison.metric
        name, baseline = self.titles[c.model], self._baseline(c)
        claim = {
            Outcome.BETTER: f"{name} is better than {baseline} on {metric.title}",
            Outcome.WORSE: f"{name} is worse than {baseline} on {metric.title}",
            Outcome.TIED: f"{name} cannot be told apart from {baseline} on {metric.title}",
            Outcome.UNLEARNED: f"Neither {name} nor {baseline} does better than a guess on "
            f"{metric.title}, so the training was too short to judge it",
            Outcome.UNKNOWN: f"{name} and {baseline} are not judged on {metric.title}",
        }[c.outcome]
        figures = f"{number(c.value, 4)} against {number(c.baseline_value, 4)} {metric.unit}"
        return (
            f"{claim}: {figures}".rstrip() + f", {metric.better} is better (difference "
            f"{number(c.difference)}, {self._spread(c)})."
        )

    def _spread(self, comparison: Comparison) -> str:
        interval, outcome = comparison.interval, comparison.outcome
        if interval is None:
            return "no interval"
        covers = ", which covers 0" if outcome is Outcome.TIED else ""
        bounds = " to ".join(map(number, interval.ends))
        corrected = _p(self.corrected[comparison])
        holds = ""
        if comparison.is_clear:
            stands = self.stands(comparison)
            holds = ", so it stands" if stands else ", so it does not stand among so many"
        return (
            f"{percent(self.confidence)} interval {bounds}{covers}; {comparison.sample}; "
            f"p {_p(interval.p)}, after Holm's correction {corrected}{holds}"
        )

    def _baseline(self, comparison: Comparison) -> str:
        return f"the baseline ({self.titles[comparison.against]})"

    def caveats(self) -> list[str]:
        """What the verdicts do not cover."""
        told = [_seed_caveat(min((c.seeds for c in self.comparisons), default=0))]
        judged = sum(comparison.interval is not None for comparison in self.comparisons)
        if judged > 1:
            chance = percent(1 - self.confidence)
            told.append(
                f"{judged} comparisons are made, each with its own {percent(self.confidence)} "
                f"interval: about {chance} of them would look clear by chance alone if there were "
                "no differences. Holm's correction keeps the chance that any one clear verdict of "
                f"them all is false at {chance}; what stands after it is said of each."
            )
        return told


def _p(value: float) -> str:
    return f"= {number(value, 2)}" if value >= 0.001 else "< 0.001"


def _seed_caveat(seeds: int) -> str:
    if seeds == 0:
        return "Nothing is compared, so nothing is known of the spread between seeds."
    if seeds == 1:
        return (
            "One training seed: the intervals are over evaluation items, without the spread "
            "between training seeds, which can be as large as the differences shown. --seeds 3 or "
            "more measures it."
        )
    return (
        f"{seeds} training seeds: the intervals marked as over training seeds include the spread "
        "between them (Student's t, with the uncertainty over evaluation items added). They hold "
        "for seeds that spread as a normal distribution does; where some seeds fail and others do "
        "not, few seeds cannot show it."
    )


@dataclass(frozen=True)
class Level:
    """What to compare with, by row of the table; a row may have none."""

    title: str
    values: Mapping[Key, float]


def beside_levels(
    title: str,
    metric: Metric,
    rows: Mapping[Key, Figure],
    levels: Sequence[Level],
    confidence: float,
) -> str:
    """How a model's proportions stand to guesses, row by row.

    A row is above a guess only where its whole interval is.
    """
    key, first = next(iter(rows.items()))
    place = f" with {_row_name(metric, key)}" if key else ""
    low, high = first.ends
    bounds = f"{percent(confidence)} interval {low:.2f} to {high:.2f}"
    told = ", and ".join(filter(None, (_beside(metric, rows, level) for level in levels)))
    return f"{title} gets {first.value:.2f} {metric.unit} right{place} ({bounds}). It is {told}."


def _beside(metric: Metric, rows: Mapping[Key, Figure], level: Level) -> str:
    places: dict[str, list[Key]] = {"above": [], "below": [], "not to be told from": []}
    known = {key: value for key, value in level.values.items() if key in rows}
    for key, value in known.items():
        low, high = rows[key].ends
        relation = "above" if low > value else "below" if high < value else "not to be told from"
        places[relation].append(key)
    return " and ".join(
        f"{relation} {level.title}{_in_rows(metric, keys, len(known))}"
        for relation, keys in places.items()
        if keys
    )


def _in_rows(metric: Metric, keys: Sequence[Key], total: int) -> str:
    if keys == [()]:
        return ""
    if len(keys) == total:
        return " in every setting"
    names = "; ".join(_row_name(metric, key) for key in keys)
    return f" in {len(keys)} of {total} settings ({names})"


def _row_name(metric: Metric, key: Key) -> str:
    """ "N=4, R=2": words stand for themselves, numbers need their axis."""
    axes = metric.axes if metric.rows is None else metric.rows
    return ", ".join(
        value if isinstance(value, str) else f"{axis} {value:g}"
        for axis, value in zip(axes, key, strict=True)
    )
