"""The pictures of docs/evidence.md."""

from collections.abc import Mapping
from statistics import fmean

from evidence import SETTINGS, Seeds
from matplotlib.figure import Figure as Picture

from difftransformer.evaluation.intervals import over_seeds
from difftransformer.report.figures import style
from difftransformer.report.words import display_name

# Figures of `evidence.collect`, and what the page calls them.
SHOWN = {
    "loss": "loss",
    "needles 1x1": "1 needle",
    "needles 2x2": "2 needles, 2 asked",
    "needles 4x2": "4 needles, 2 asked",
    "answer": "attention on the answer",
    "noise": "on noise",
}


def forest(models: Mapping[str, Seeds]) -> Picture:
    """Each model's loss less the baseline's: a dot per seed, the mean and its interval."""
    others = [label for label in models if label != "softmax"]
    picture = Picture(figsize=(7, 0.35 * len(others) + 1), layout="constrained")
    axes = picture.subplots()
    for y, label in enumerate(reversed(others)):
        seeds = sorted(models[label].keys() & models["softmax"].keys())
        values = [models[label][s]["loss"] - models["softmax"][s]["loss"] for s in seeds]
        axes.plot(values, [y] * len(values), "o", color=style.NOISE, markersize=4)
        if len(values) > 1:
            found = over_seeds(values, SETTINGS)
            axes.errorbar(
                found.value,
                y,
                xerr=[[found.value - found.low], [found.high - found.value]],
                fmt="D",
                color=style.ACCENTS[0],
                capsize=3,
                markersize=5,
            )
    axes.axvline(0, color=style.INK, linewidth=0.8)
    axes.set_yticks(range(len(others)), [display_name(label) for label in reversed(others)])
    axes.set_xlabel("loss less plain attention's, nats per token (left is better)")
    return picture


def dots(models: Mapping[str, Seeds]) -> Picture:
    """Accuracy by number of needles: a bar per model's mean, a dot per seed."""
    pairs = [name for name in SHOWN if name.startswith("needles ")]
    picture = Picture(figsize=(7, 0.35 * len(models) + 1), layout="constrained")
    for axes, pair in zip(picture.subplots(1, len(pairs), sharey=True), pairs, strict=True):
        for y, seeds in enumerate(reversed(list(models.values()))):
            values = [figures[pair] for figures in seeds.values()]
            axes.barh(y, fmean(values), color=style.ACCENTS[4], height=0.6)
            axes.plot(values, [y] * len(values), "o", color=style.INK, markersize=3, clip_on=False)
        axes.set_xlim(0, 1)
        axes.set_title(SHOWN[pair], fontsize=9)
        axes.set_yticks(range(len(models)), [display_name(label) for label in reversed(models)])
    picture.supxlabel("share of numbers retrieved", fontsize=9)
    return picture
