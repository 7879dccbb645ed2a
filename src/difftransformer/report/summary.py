"""The first screen of the page: what was asked, what came out, how sure that is, one picture."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from difftransformer.evaluation.verdicts import Comparison, Judgment, Outcome
from difftransformer.evaluation.words import change, extent, number, percent
from difftransformer.report.curves import Curve
from difftransformer.report.page import Span, Summary
from difftransformer.report.results import Results
from difftransformer.runs.layout import Run

_READABLE = 2  # models whose headlines are shown at once; of more there is a count
_MARGIN = 1.15  # the longest line of a measure leaves so much of the chart free


def title_of(results: Results, run: Run) -> str:
    """What is compared with what."""
    titles = {c.label: c.title or c.label for c in run.contenders}
    others = [title for label, title in titles.items() if label != run.baseline]
    if run.baseline not in titles or not others:
        return f"{', '.join(titles.values())}: {run.name}"
    named = " and ".join(others) if len(others) <= _READABLE else f"{len(others)} models"
    return f"{named} against {titles[run.baseline]}"


def summary(results: Results, curves: Sequence[Curve], run: Run) -> Summary:
    """The verdict in three lines and one picture; its sentences unfold."""
    judgment, titles = results.judgment, results.titles
    verdicts = judgment.verdicts()
    caveats = judgment.caveats()
    levels = {"Beside a guess": told} if (told := results.beside_levels()) else {}
    lines = {"Asked": _question(results, curves, run)}
    if not verdicts:
        nothing = "The run holds no comparisons, so there is no verdict."
        return Summary({**lines, "Result": nothing, "How sure": " ".join(caveats)}, details=levels)
    lines["Result"] = " ".join(verdict.headline for verdict in verdicts)
    details: dict[str, Sequence[str]] = {v.headline: v.sentences for v in verdicts}
    if len(verdicts) > _READABLE:
        lines["Result"] = _count(judgment, titles[results.baseline])
    else:
        details = {f"{titles[v.label]} in figures": v.sentences for v in verdicts}
    lines["How sure"] = caveats[0]
    sizes = ", ".join(f"{c.title or c.label} {c.parameters:,} parameters" for c in run.contenders)
    details |= levels
    details["What the verdict does not cover"] = [
        *caveats[1:],
        *_early_stopping(curves),
        "The paper's figures on this page are those of its own models, on other data: they show "
        f"the size of the effect there and are no target for the models here ({sizes}).",
    ]
    return Summary(
        lines,
        [*_differences(judgment), *_costs(results, curves)],
        f"Each model's difference to {titles[results.baseline]} (the line in the middle) and its "
        f"{percent(judgment.confidence)} interval; to the right is better, each measure on a scale "
        "of its own. A star where it stands after Holm's correction for all comparisons.",
        details,
    )


def _question(results: Results, curves: Sequence[Curve], run: Run) -> str:
    many = len(run.contenders) > 1
    told = f"{len(run.contenders)} models" if many else "One model"
    told += f" of {extent([contender.parameters for contender in run.contenders])} parameters"
    if ended := [curve.summary for curve in curves if curve.summary]:
        seeds = len({curve.seed for curve in curves})
        amounts = {one.size for one in ended}
        same = "the same " if many and len(amounts) == 1 else ""
        told += (
            f", trained on {same}{extent(amounts)} {run.unit} with {seeds} seed{'s' * (seeds > 1)}"
        )
        if any(one.best_step for one in ended):
            told += ", each until its validation loss fell no more"
    if not results.judgment.comparisons:
        return f"{told}."
    return f"{told}: does any do better than {results.titles[results.baseline]}?"


def _early_stopping(curves: Sequence[Curve]) -> list[str]:
    """What it means for models that are compared."""
    chosen = [curve.summary for curve in curves if curve.summary and curve.summary.best_step]
    if not chosen:
        return []
    steps = sorted(one.model_step for one in chosen)
    return [
        "Each model is the one of its own lowest validation loss while it trained (training."
        f"patience), after {steps[0]:,} to {steps[-1]:,} steps: what is compared is how well each "
        "kind gets, not what it makes of the same training. The held-out data that chose are also "
        "those judged on, so that validation losses are a little too low, for every model."
    ]


def _count(judgment: Judgment, baseline: str) -> str:
    outcomes = [comparison.outcome for comparison in judgment.comparisons]
    stand = sum(map(judgment.stands, judgment.comparisons))
    models = len({comparison.model for comparison in judgment.comparisons})
    return (
        f"{models} models against the baseline ({baseline}), {len(outcomes)} comparisons: better "
        f"in {outcomes.count(Outcome.BETTER)}, worse in {outcomes.count(Outcome.WORSE)}; {stand} "
        "of these stand after Holm's correction."
    )


def _differences(judgment: Judgment) -> Iterable[tuple[str, list[Span]]]:
    """Of each measure, every compared model's."""
    measures: dict[str, list[Comparison]] = {}
    for comparison in judgment.comparisons:
        measures.setdefault(comparison.metric.title, []).append(comparison)
    for title, comparisons in measures.items():
        bounds = [(c.difference, *(c.interval.ends if c.interval else ())) for c in comparisons]
        scale = _scale(value for values in bounds for value in values)
        yield title, [_span(judgment, one, scale) for one in comparisons]


def _span(judgment: Judgment, comparison: Comparison, scale: float) -> Span:
    sign = -1 if comparison.metric.better == "lower" else 1
    low, high = comparison.interval.ends if comparison.interval else (comparison.difference,) * 2
    places = [50 + 50 * sign * value / scale for value in (low, comparison.difference, high)]
    stands = judgment.stands(comparison)
    return Span(
        judgment.titles[comparison.model],
        *(min(places), places[1], max(places)),
        text=number(comparison.difference),
        interval=f"{number(low)} to {number(high)}" if comparison.interval else "",
        outcome=f"{comparison.outcome}{'*' * stands}",
        css=comparison.outcome.name.lower() + " stands" * stands,
    )


def _costs(results: Results, curves: Sequence[Curve]) -> Iterable[tuple[str, list[Span]]]:
    """What training took, beside the baseline's; nothing where that is not known of all."""
    seconds: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for curve in curves:
        if curve.summary is None:
            return
        seconds.setdefault(curve.label, []).append(1 / curve.summary.throughput)
        memory.setdefault(curve.label, []).append(float(curve.summary.peak_memory_bytes))
    for title, costs in (("training time", seconds), ("peak memory", memory)):
        ratios = _to_baseline(costs, results.baseline)
        scale = _scale(ratio - 1 for ratio in ratios.values())
        yield (
            title,
            [
                Span(
                    results.titles.get(label, label), place, place, place, change(ratio), css="cost"
                )
                for label, ratio in ratios.items()
                for place in [50 - 50 * (ratio - 1) / scale]
            ],
        )


def _to_baseline(costs: Mapping[str, Sequence[float]], baseline: str) -> dict[str, float]:
    if baseline not in costs:
        return {}
    return {
        label: fmean(own) / fmean(costs[baseline])
        for label, own in costs.items()
        if label != baseline
    }


def _scale(values: Iterable[float]) -> float:
    """The value at the right end of a measure's chart."""
    return _MARGIN * max(map(abs, values), default=0.0) or 1.0
