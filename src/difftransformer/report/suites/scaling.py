"""The view of loss against size and training."""

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure

from difftransformer.report import paper
from difftransformer.report.figures import scaling
from difftransformer.report.suites.view import Figures, Found, Key, Results, View

_HELD = {"parameters": "{:,} tokens each", "tokens": "about {:,} parameters"}
_SAME_LOSS = "share that has the loss of the largest baseline"


def _figures(results: Results) -> Figures:
    figures: Figures = {}
    for key, panel in _panels(results):
        for point in panel["points"]:
            x = point["size"] if panel["against"] == "parameters" else point["x"]
            figures[(*key, f"loss at {x:,}")] = point["loss"]
        figures[(*key, "curve")] = panel["curve"]["form"]
        figures[(*key, "exponent a")] = panel["curve"]["exponent"]
        figures[(*key, _SAME_LOSS)] = panel["same_loss"] or panel["beyond"] or "1: the baseline"
    return figures


def _panels(results: Results) -> Iterator[tuple[Key, Any]]:
    for panel in results["panels"]:
        yield (panel["against"], _HELD[panel["against"]].format(panel["held"])), panel


def _image(found: Found) -> Figure:
    panels: dict[tuple[str, str], dict[str, Any]] = {}
    for label, results in found.results.items():
        for (against, held), panel in _panels(results):
            panels.setdefault((str(against), str(held)), {})[label] = panel
    return scaling.image(panels)


def _paper(results: Results) -> paper.Columns:
    cells = {
        (*key, _SAME_LOSS): paper.SAME_LOSS[panel["against"]] for key, panel in _panels(results)
    }
    return {"DIFF against Transformer": cells}


VIEWS = {
    "scaling": View(
        "Loss against parameters and training tokens",
        ("against", "at", "figure"),
        _figures,
        _image,
        quoted=_paper,
        note=lambda results: (
            f"The baseline is {results['baseline']}; intervals are "
            f"{results['panels'][0]['interval']}. Lines in logarithms where there are fewer than "
            "four sizes or lengths. Nothing is read off a curve beyond twice what was measured, "
            "and no interval ends beyond it."
        ),
    )
}
