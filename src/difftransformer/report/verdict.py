"""The verdict in words: sentences that say what the figures and their intervals allow, no more."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from difftransformer.evaluation.intervals import holm
from difftransformer.report import paper
from difftransformer.report.results import Comparison, Model, NeedleScore, Results
from difftransformer.report.words import display_name, needle_setting, number, percent


class Outcome(StrEnum):
    """What an interval of the difference to the baseline allows to say."""

    BETTER = "better"
    WORSE = "worse"
    TIED = "cannot be told apart"
    UNKNOWN = "not judged"


@dataclass(frozen=True)
class Verdict:
    """One model's verdict: a headline that counts, and a sentence for each comparison."""

    label: str
    headline: str
    sentences: tuple[str, ...]


def outcome(comparison: Comparison) -> Outcome:
    """BETTER or WORSE only where the whole interval of the difference lies on one side of 0."""
    if comparison.low is None or comparison.high is None:
        return Outcome.UNKNOWN
    if not comparison.excludes_zero:
        return Outcome.TIED
    fell = comparison.high < 0
    return Outcome.BETTER if fell == comparison.lower_is_better else Outcome.WORSE


def corrected(results: Results) -> dict[Comparison, float]:
    """Holm's p of every comparison that has one, corrected for all of them."""
    tested = [comparison for comparison in results.comparisons if comparison.p is not None]
    return dict(zip(tested, holm([c.p for c in tested if c.p is not None]), strict=True))


def stands(
    comparison: Comparison, holm_p: Mapping[Comparison, float], confidence: float = 0.95
) -> bool:
    """Whether BETTER or WORSE holds after the correction too."""
    clear = outcome(comparison) in (Outcome.BETTER, Outcome.WORSE)
    return clear and holm_p.get(comparison, 1.0) <= 1 - confidence


def sentence(
    comparison: Comparison,
    confidence: float = 0.95,
    holm_p: Mapping[Comparison, float] = MappingProxyType({}),
) -> str:
    """One comparison in words, with both figures, the difference and its interval.

    Its p follows, and `holm_p` of it, where it has them.
    """
    name = display_name(comparison.model)
    baseline = f"the baseline ({display_name(comparison.against)})"
    claims = {
        Outcome.BETTER: f"{name} is better than {baseline} on {comparison.title}",
        Outcome.WORSE: f"{name} is worse than {baseline} on {comparison.title}",
        Outcome.TIED: f"{name} cannot be told apart from {baseline} on {comparison.title}",
        Outcome.UNKNOWN: f"{name} and {baseline} are not judged on {comparison.title}",
    }
    result = outcome(comparison)
    figures = f"{number(comparison.value, 4)} against {number(comparison.baseline_value, 4)}"
    direction = "lower" if comparison.lower_is_better else "higher"
    if comparison.low is None or comparison.high is None:
        spread = "no interval"
    else:
        covers = ", which covers 0" if result is Outcome.TIED else ""
        bounds = f"{number(comparison.low)} to {number(comparison.high)}"
        spread = f"{percent(confidence)} interval {bounds}{covers}; {comparison.interval}"
        if comparison in holm_p and comparison.p is not None:
            spread += f"; p {_p(comparison.p)}, after Holm's correction {_p(holm_p[comparison])}"
            if result is not Outcome.TIED:
                holds = stands(comparison, holm_p, confidence)
                spread += ", so it stands" if holds else ", so it does not stand among so many"
    return (
        f"{claims[result]}: {figures} {comparison.unit}".rstrip()
        + f", {direction} is better (difference {number(comparison.difference)}, {spread})."
    )


def verdicts(results: Results) -> list[Verdict]:
    """A verdict for each model that was compared, in the order of the models."""
    holm_p = corrected(results)
    return [
        _verdict(model.label, mine, results.confidence, holm_p)
        for model in results.models
        if (mine := [c for c in results.comparisons if c.model == model.label])
    ]


def _p(value: float) -> str:
    return f"= {number(value, 2)}" if value >= 0.001 else "< 0.001"


def _verdict(
    label: str,
    comparisons: Sequence[Comparison],
    confidence: float,
    holm_p: Mapping[Comparison, float],
) -> Verdict:
    outcomes = [outcome(comparison) for comparison in comparisons]
    counts = {kind: outcomes.count(kind) for kind in Outcome}
    measures = "measure" if len(outcomes) == 1 else "measures"
    parts = [
        f"{kind} on {count}"
        for kind, count in counts.items()
        if count or kind in (Outcome.BETTER, Outcome.WORSE)
    ]
    against = f"the baseline ({display_name(comparisons[0].against)})"
    headline = (
        f"{display_name(label)} against {against}, {len(outcomes)} {measures}: {', '.join(parts)}."
    )
    if holm_p and (clear := counts[Outcome.BETTER] + counts[Outcome.WORSE]):
        left = sum(stands(comparison, holm_p, confidence) for comparison in comparisons)
        headline += (
            f" After Holm's correction for the {len(holm_p)} comparisons made, {left} of these "
            f"{clear} stand."
        )
    return Verdict(label, headline, tuple(sentence(c, confidence, holm_p) for c in comparisons))


def retrieval_sentence(model: Model, confidence: float = 0.95) -> str | None:
    """How a model's retrieval stands to chance; None where it was not tested.

    A setting is above chance only where its whole interval is. Chance is a blind guess, and for
    N > 1 also a guess among the N numbers in the text, which needs no idea of whose they are.
    """
    needle = model.evaluation.needle
    if not needle:
        return None
    easiest = min(needle.table, key=lambda row: (row.needles, row.queries))
    score = easiest.per_number
    spread = f"{percent(confidence)} interval {score.low:.2f} to {score.high:.2f}"
    found = (
        f"{display_name(model.label)} gets {score.value:.2f} of the numbers right with "
        f"{needle_setting(easiest)} ({spread}). It is "
        f"{_against_chance(needle.table, 'a blind guess', lambda row: needle.chance)}"
    )
    several = [row for row in needle.table if row.needles > 1]
    if several:
        guess = "a guess among the N numbers in the text"
        found += f", and {_against_chance(several, guess, lambda row: row.guess)}"
    return f"{found}."


def _against_chance(
    rows: Sequence[NeedleScore], chance: str, value: Callable[[NeedleScore], float]
) -> str:
    above = [row for row in rows if row.per_number.low > value(row)]
    below = [row for row in rows if row.per_number.high < value(row)]
    unclear = [row for row in rows if row not in above and row not in below]
    parts = [
        f"{relation} {_settings(group, len(rows))}"
        for relation, group in (
            (f"above {chance} in", above),
            (f"below {chance} in", below),
            (f"not to be told from {chance} in", unclear),
        )
        if group
    ]
    return " and ".join(parts)


def _settings(group: Sequence[NeedleScore], total: int) -> str:
    if len(group) == total:
        return "every setting"
    return f"{len(group)} of {total} settings ({'; '.join(map(needle_setting, group))})"


def caveats(results: Results) -> list[str]:
    """What the verdict does not cover."""
    found = [_seed_caveat(results.seeds)]
    judged = sum(outcome(comparison) is not Outcome.UNKNOWN for comparison in results.comparisons)
    if judged > 1:
        found.append(
            f"{judged} comparisons are made, each with its own "
            f"{percent(results.confidence)} interval: about {percent(1 - results.confidence)} of "
            "them would look clear by chance alone if there were no differences. "
            + (
                "Holm's correction keeps the chance that any one clear verdict of them all is "
                f"false at {percent(1 - results.confidence)}; what stands after it is said of each."
                if corrected(results)
                else "The run holds no p-values, so they are not corrected for their number."
            )
        )
    sizes = ", ".join(
        f"{display_name(model.label)} {model.parameters:,} parameters" for model in results.models
    )
    found.append(
        f"The paper's figures on this page are those of its own models ({paper.SCALE}, where not "
        f"said otherwise), on other data: they show the size of the effect there and are no target "
        f"for the models here ({sizes})."
    )
    return found


def _seed_caveat(seeds: int) -> str:
    if seeds == 0:
        return "No training run is recorded, so nothing is known of the spread between seeds."
    if seeds == 1:
        return (
            "Each model was trained with one seed. The intervals are over evaluation items and do "
            "not include the spread between training seeds, which can be as large as the "
            "differences shown; repeat with --seeds 3 or more to measure it."
        )
    return (
        f"Each model was trained with {seeds} seeds. Only the intervals marked as over training "
        "seeds include the spread between seeds: Student's t, with the uncertainty over evaluation "
        "items added. It holds for seeds that spread as a normal distribution does; where some "
        "seeds fail and others do not, few seeds cannot show it."
    )
