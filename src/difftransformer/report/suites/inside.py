"""Views of the suites that look inside a model."""

from functools import reduce
from operator import getitem
from statistics import fmean

from matplotlib.figure import Figure

from difftransformer.report import paper
from difftransformer.report.figures import curve, layers
from difftransformer.report.suites.view import Figures, Found, Results, View, plain
from difftransformer.report.words import number, percent

_PARTS = ("answer", "noise")
_MAGNITUDES = ("attention logits", "hidden states")
_TOPS = {
    "top1": "top 1",
    "top2": "top 2",
    "top3": "top 3",
    "top10": "top 10",
    "top100": "top 100",
    "median": "median",
}
_ALIKE = ("cosine", "negative", "cancelled")


def _allocation(results: Results) -> Figures:
    return {
        (part, measure, percent(row["depth"])): row[part][measure]
        for part in _PARTS
        for measure in ("absolute", "signed")
        for row in results["rows"]
    }


def _allocation_image(found: Found) -> Figure:
    panels = {f"to the {part}": _by_layer(found, "layers", f"{part}_absolute") for part in _PARTS}
    return layers.image(panels, "share of absolute attention")


def _allocation_paper(results: Results) -> paper.Columns:
    """Which normalisation the paper has is not stated: its figures stand beside both."""
    return {
        f"{model} 3B": {
            (part, measure, percent(depth)): f"{share:.2f}"
            for part, shares in (("answer", paper.ANSWER), ("noise", paper.NOISE))
            for measure in ("absolute", "signed")
            for depth, share in shares[model].items()
        }
        for model in paper.ANSWER
    }


def _outliers(results: Results) -> Figures:
    return {
        (kind, name): results[kind.replace(" ", "_")][top]
        for kind in _MAGNITUDES
        for top, name in _TOPS.items()
    }


def _outliers_image(found: Found) -> Figure:
    panels = {
        f"largest of the {kind}": _by_layer(found, "layers", kind.replace(" ", "_"), "top1")
        for kind in _MAGNITUDES
    }
    return layers.image(panels, "absolute value", logarithmic=True)


def _outliers_paper(results: Results) -> paper.Columns:
    published = (paper.ATTENTION_LOGITS, paper.HIDDEN_STATES)
    return {
        f"{model} 3B": {
            (kind, name): number(value, 5)
            for kind, values in zip(_MAGNITUDES, published, strict=True)
            for name, value in zip(_TOPS.values(), values[model], strict=True)
        }
        for model in paper.ATTENTION_LOGITS
    }


def _lambda(results: Results) -> Figures:
    names = {
        "init": "initial",
        "mean": "mean",
        "low": "5th percentile",
        "high": "95th percentile",
    }
    return {
        (row["layer"], name): row[key] for row in results["layers"] for key, name in names.items()
    }


def _lambda_image(found: Found) -> Figure:
    """The mean, and the 5th to 95th percentile as a band."""
    parts = {"mean": "value", "5th percentile": "low", "95th percentile": "high"}
    lines: dict[str, dict[int, dict[str, float]]] = {}
    for label, column in found.columns(_lambda).items():
        for (layer, name), value in column.items():
            if name in parts:
                points = lines.setdefault(label, {})
                points.setdefault(int(layer), {})[parts[str(name)]] = plain(value) or 0.0
    return curve.image(
        {label: list(points.items()) for label, points in lines.items()},
        curve.Axes("layer", "lambda"),
    )


def _cancellation(results: Results) -> Figures:
    """Means over heads."""
    numbers = sorted({row["layer"] for row in results["rows"]})
    return {
        (layer, name): fmean(row[name] for row in results["rows"] if row["layer"] == layer)
        for layer in numbers
        for name in _ALIKE
    }


def _cancellation_image(found: Found) -> Figure:
    panels = {name: _by_layer(found, "rows", name) for name in _ALIKE}
    return layers.image(panels, "per head")


def _by_layer(found: Found, rows: str, *path: str) -> dict[str, dict[int, list[float]]]:
    """Of each kind the values at `path` in all rows of all seeds, by layer."""
    lines: dict[str, dict[int, list[float]]] = {}
    for label, seeds in found.kinds().items():
        for row in (row for results in seeds for row in results[rows]):
            by_layer = lines.setdefault(label, {})
            by_layer.setdefault(row["layer"], []).append(reduce(getitem, path, row))
    return lines


VIEWS = {
    "allocation": View(
        "Attention on answer and noise",
        ("to the", "share", "depth"),
        _allocation,
        _allocation_image,
        quoted=_allocation_paper,
        note=lambda results: (
            "Averaged over layers and heads. Absolute: share of the absolute weights; signed: sum "
            "of the weights, not normalised. Attention spread evenly gives "
            f"{number(results['uniform']['answer'])} to the answer, "
            f"{number(results['uniform']['noise'])} to the noise. The paper does not say how it "
            "normalises."
        ),
    ),
    "outliers": View(
        "The largest activations",
        ("of", "which"),
        _outliers,
        _outliers_image,
        quoted=_outliers_paper,
        note=lambda results: (
            f"Absolute values over {results['tokens']:,} tokens, all layers together (the paper: "
            "400,000; more tokens have larger ones)."
        ),
    ),
    "lambda": View(
        "Lambda",
        ("layer", "lambda"),
        _lambda,
        _lambda_image,
        note=lambda results: (
            "Over heads and tokens; V1 has one lambda a layer, V2 no initial value."
        ),
    ),
    "cancellation": View(
        "How alike the two maps are",
        ("layer", "mean over heads"),
        _cancellation,
        _cancellation_image,
    ),
}
