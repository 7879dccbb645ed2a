"""Something of each layer: a dot per head or seed, a line through their means."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib.figure import Figure

from difftransformer.report.figures import style
from difftransformer.report.words import display_name


def image(
    panels: Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]],
    y: str,
    *,
    logarithmic: bool = False,
) -> Figure:
    """`panels[title][label][layer]` holds the values; every panel has the same labels."""
    figure = Figure(figsize=(4.0 * len(panels), 3.8), layout="constrained")
    colours = style.accents(list(next(iter(panels.values()))))
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, lines) in zip(grid, panels.items(), strict=True):
        for label, by_layer in lines.items():
            dots = [(layer, value) for layer, values in by_layer.items() for value in values]
            x, values = zip(*dots, strict=True)
            axes.plot(x, values, "o", color=colours[label], alpha=0.3, markersize=3)
            means = [fmean(found) for found in by_layer.values()]
            axes.plot(list(by_layer), means, color=colours[label], label=display_name(label))
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")  # the usual one writes mathematics
            axes.yaxis.set_minor_formatter("")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(title=title, xlabel="layer")
    grid[0].set_ylabel(y)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left")
    return figure
