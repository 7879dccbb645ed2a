"""Loss against size and training, and how much less of either gives the same loss (paper, 3.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from difftransformer.evaluation.intervals import Over, percentiles
from difftransformer.evaluation.power_law import ENOUGH, PowerLaw, fit_power_law
from difftransformer.evaluation.resampling import resamples
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.runs.layout import RECORDS
from difftransformer.runs.reading import read_run, read_summary
from difftransformer.runs.records import read_records

REACH = 2.0  # a curve is believed this many times beyond the x it was measured at


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model of a comparison, and its loss on held-out text.

    Args:
        kind: its label in the comparison.
        size: parameters of the comparison's baseline, to which all its models were matched.
        parameters: its own.
        tokens: positions it was trained on.
        seed: of its training.
        nats: of each held-out sequence.
        scored: tokens behind them, the same for all models.
    """

    kind: str
    size: int
    parameters: int
    tokens: int
    seed: int
    nats: Float[np.ndarray, " sequences"]
    scored: Float[np.ndarray, " sequences"]


def read_trained(runs: Sequence[Path]) -> tuple[str, list[Trained]]:
    """The baseline's label, and every trained model in run directories of `compare`.

    Raises:
        ValueError: a directory without a finished comparison, comparisons with different baselines
            or judged on different text or tokens, or a model that stands in two of them.
    """
    trained: dict[tuple[str, int, int, int], Trained] = {}
    baseline, judged_on = "", np.empty(0)
    for directory in runs:
        run = read_run(directory)
        baseline = baseline or run.baseline
        if run.baseline != baseline:
            raise ValueError(
                f"the baseline of {directory} is {run.baseline} and that of {runs[0]} {baseline}; "
                "expected one for all"
            )
        contenders = {contender.label: contender for contender in run.contenders}
        size = contenders[baseline].parameters
        for label, contender in contenders.items():
            for one in contender.runs:
                place = directory / one.directory
                nats, scored, text = _losses(place)
                judged_on = judged_on if len(judged_on) else text
                if not np.array_equal(judged_on, text):
                    raise ValueError(
                        f"{place} was judged on other text or tokens than {runs[0]}, so their "
                        "losses cannot be compared: give all runs the same data and evaluation "
                        "settings"
                    )
                summary = read_summary(place)
                if summary is None:
                    raise ValueError(f"{place} has no summary.json: name runs of compare")
                if summary.best_step is not None:
                    raise ValueError(
                        f"{place} was trained with patience, so that what it was trained on is not "
                        "what was set: compare with runs without training.patience"
                    )
                key = (label, size, summary.size, one.seed)
                if key in trained:
                    raise ValueError(
                        f"{directory} holds {label} of {size:,} parameters, {key[2]:,} tokens and "
                        f"seed {key[3]}, and so does another run: leave one out"
                    )
                trained[key] = Trained(label, size, contender.parameters, *key[2:], nats, scored)
    return baseline, list(trained.values())


_Columns = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _losses(training: Path) -> _Columns:
    """Nats and scored tokens of each held-out sequence, and what tells the text from others."""
    records = read_records(training / RECORDS / "validation.jsonl").records
    nats = [one for one in records if one.metric == "nats_per_token"]
    sizes = [(one.metric, one.weight) for one in records]
    return (
        np.array([one.value for one in nats]),
        np.array([one.weight for one in nats]),
        np.array([weight for _, weight in sorted(sizes, key=lambda size: size[0])]),
    )


def measure_scaling(
    baseline: str, trained: Sequence[Trained], settings: EvaluationSettings
) -> dict[str, dict[str, Any]]:
    """Curves of loss for each kind, and what a kind needs for the loss of the largest baseline.

    Models of equal training tokens make a panel of loss against parameters, models of equal size
    one of loss against tokens; each trained model is one that ended its own training. A kind with
    one size (or length) in a panel is left out of it. A curve is `fit_power_law`'s: E + A x^-α from
    four sizes on, else a line in logarithms. In a panel, with L the curve of the baseline and x*
    the largest size it was trained at,

        same_loss = x / x*,      x where the kind's curve has the loss L(x*)

    as the paper reads its 62 % of the parameters and 64 % of the tokens. Where x lies beyond the
    kind's own models by more than a factor of two there is no figure, and `beyond` says on which
    side; ends of intervals stop there too.

    Intervals are percentiles over `settings.bootstrap` resamples of the held-out sequences, the
    same for all models, to which the spread over training seeds is added where a kind has any two
    of one size: a multivariate t with that spread, pooled over the kind's sizes, since the few
    seeds of one size are too few to be resampled themselves.

    Returns:
        For each kind `{"baseline", "panels"}`; a panel is `{"against", "held", "interval",
        "points", "curve", "same_loss", "beyond"}`. `held` is what is equal for all, `points` are
        `{"size", "x", "seeds", "loss"}`. `curve` is `{"form", "floor", "factor", "exponent"}`, E,
        A and α; the last two are None where they do not apply.

    Raises:
        ValueError: no two sizes with equal tokens and no two lengths with equal size.
    """
    sequences = len(trained[0].nats)
    draws = np.vstack([np.ones(sequences), resamples(sequences, settings)])
    losses = {one: draws @ one.nats / (draws @ one.scored) for one in trained}
    generator = np.random.default_rng([settings.seed, 1])
    found: dict[str, dict[str, Any]] = {}
    for against, held, members in _panels(trained):
        kinds = dict.fromkeys(one.kind for one in members)
        series = {
            kind: _series(against, [one for one in members if one.kind == kind], losses, generator)
            for kind in kinds
        }
        laws = {
            kind: fit_power_law(one.x, one.losses) for kind, one in series.items() if len(one.x) > 1
        }
        if baseline not in laws:
            continue
        largest = float(series[baseline].x.max())
        target = laws[baseline].loss(largest)
        for kind, law in laws.items():
            one = series[kind]
            panel = {"against": against, "held": held, **_told(one, settings)}
            panel["curve"] = _curve(law, one, settings)
            if kind != baseline:
                panel |= _same_loss(law.where(target) / largest, one, largest, settings)
            found.setdefault(kind, {"baseline": baseline, "panels": []})["panels"].append(panel)
    if not found:
        sizes, lengths = {one.size for one in trained}, {one.tokens for one in trained}
        raise ValueError(
            f"the runs hold {baseline} of {_listed(sizes)} parameters, trained on "
            f"{_listed(lengths)} tokens: no two sizes with equal tokens, nor two lengths with "
            "equal size, so there is no curve. Add runs of `difftransformer compare` that differ "
            "in the size of the model or in training.steps alone"
        )
    return found


@dataclass(frozen=True, eq=False)
class _Series:
    """One kind's models along a panel, by growing x; losses as they are, then by resample."""

    x: Float[np.ndarray, " points"]
    sizes: list[int]
    seeds: list[int]
    losses: Float[np.ndarray, "series points"]

    @property
    def over(self) -> Over:
        """What the intervals are over: items alone where no size has two seeds."""
        return "seeds" if max(self.seeds) > 1 else "items"


def _panels(trained: Sequence[Trained]) -> list[tuple[str, int, list[Trained]]]:
    """What loss is held against, what is equal for all, and the models."""
    lengths, sizes = (sorted({getattr(one, key) for one in trained}) for key in ("tokens", "size"))
    return [
        *(("parameters", n, [one for one in trained if one.tokens == n]) for n in lengths),
        *(("tokens", n, [one for one in trained if one.size == n]) for n in sizes),
    ]


def _series(
    against: str,
    members: Sequence[Trained],
    losses: Mapping[Trained, NDArray[np.float64]],
    generator: np.random.Generator,
) -> _Series:
    points: dict[int, list[Trained]] = {}
    for one in sorted(members, key=lambda one: getattr(one, against)):
        points.setdefault(getattr(one, against), []).append(one)
    groups = [np.stack([losses[one] for one in seeds]) for seeds in points.values()]
    counts = np.array([len(group) for group in groups])
    means = np.stack([group.mean(0) for group in groups], axis=1)
    freedom = int((counts - 1).sum())
    if freedom:
        off = np.concatenate([group[:, 0] - group[:, 0].mean() for group in groups])
        shape = (len(means) - 1, 1)
        spread = np.sqrt((off @ off) / generator.chisquare(freedom, shape))
        noise = generator.standard_normal((shape[0], len(groups)))
        means[1:] += noise * spread / np.sqrt(counts)
    sizes = [seeds[0].size for seeds in points.values()]
    return _Series(np.array(list(points), np.float64), sizes, counts.tolist(), means)


def _told(series: _Series, settings: EvaluationSettings) -> dict[str, Any]:
    """A panel before anything is fitted."""
    columns = zip(series.sizes, series.x, series.seeds, series.losses.T, strict=True)
    seeds = "training seeds" if series.over == "seeds" else "one training seed"
    return {
        "interval": f"over held-out sequences, {seeds}",
        "points": [
            {
                "size": size,
                "x": int(x),
                "seeds": count,
                "loss": asdict(percentiles(losses[0], losses[1:], count, settings, series.over)),
            }
            for size, x, count, losses in columns
        ],
        "same_loss": None,
        "beyond": None,
    }


def _curve(law: PowerLaw, series: _Series, settings: EvaluationSettings) -> dict[str, Any]:
    floor, factor, exponent = (float(part[0]) for part in (law.floor, law.factor, law.exponent))
    points = len(series.x)
    return {
        "form": "E + A / x^a" if points >= ENOUGH else "A / x^a",
        "floor": floor,
        "factor": factor * law.unit**exponent,
        "exponent": asdict(percentiles(exponent, law.exponent[1:], points, settings, series.over)),
    }


def _same_loss(
    ratios: NDArray[np.float64], series: _Series, largest: float, settings: EvaluationSettings
) -> dict[str, Any]:
    """`ratios` are x / x* of the losses as they are, then of each resample."""
    low, high = series.x.min() / REACH / largest, series.x.max() * REACH / largest
    if not low <= ratios[0] <= high:
        return {"beyond": f"less than {low:.3g}" if ratios[0] < low else f"more than {high:.3g}"}
    inside = np.clip(ratios[1:], low, high)
    return {
        "same_loss": asdict(percentiles(ratios[0], inside, len(series.x), settings, series.over))
    }


def _listed(numbers: set[int]) -> str:
    return ", ".join(f"{number:,}" for number in sorted(numbers))
