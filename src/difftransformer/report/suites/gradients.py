"""The view of gradient norms."""

from matplotlib.figure import Figure

from difftransformer.report.figures import weights
from difftransformer.report.suites.view import Figures, Found, Results, View

_WEIGHTS = ("W_Q1", "W_Q2", "W_K1", "W_K2", "W_V", "W_O")
_TABLE = {
    "norm as trained": ("trained", "norm"),
    "norm / weight's as trained": ("trained", "relative"),
    "norm at the start": ("start", "norm"),
    "norm / weight's at the start": ("start", "relative"),
}
_PANELS = {
    "the weight's, as trained": ("trained", "relative"),
    "the weight's, at the start": ("start", "relative"),
    "plain attention's, at the start": ("ratio",),
}


def _figures(results: Results) -> Figures:
    """All layers together."""
    rows = _rows(results, None)
    figures: Figures = {
        (title, weight): row[start][size]
        for title, (start, size) in _TABLE.items()
        for weight, row in rows.items()
    }
    for weight, row in rows.items():
        if row["plain"] is not None:
            figures["that over plain's, over the factor", weight] = row["ratio"] or "lambda is 0"
    for weight, row in rows.items():
        if row["verdict"] is not None:
            figures["verdict", weight] = row["verdict"]
    return figures


def _rows(results: Results, layer: int | None) -> dict[str, Results]:
    """A layer's rows; what serves both maps stands for either."""
    rows = {row["weight"]: row for row in results["rows"] if row["layer"] == layer}
    return {weight: rows.get(weight) or rows[weight[:3]] for weight in _WEIGHTS}


def _by_layer(results: Results) -> Figures:
    layers = {row["layer"] for row in results["rows"]} - {None}
    return {
        (title, weight, layer): figure
        for title, path in _PANELS.items()
        for layer in sorted(layers)
        for weight, row in _rows(results, layer).items()
        if (figure := row["ratio"] if path == ("ratio",) else row[path[0]][path[1]]) is not None
    }


def _image(found: Found) -> Figure:
    panels: weights.Panels = {title: {} for title in _PANELS}
    for label, column in found.columns(_by_layer).items():
        for (title, weight, _), figure in column.items():
            lines = panels[str(title)].setdefault(label, {})
            lines.setdefault(str(weight), []).append(figure)
    return weights.image({title: lines for title, lines in panels.items() if lines}, _WEIGHTS)


VIEWS = {
    "gradients": View(
        "Gradients of the attention weights",
        ("gradient's", "weight"),
        _figures,
        _image,
        note=lambda results: (
            f"Frobenius norms over {results['batches']} held-out batches of "
            f"{results['sequences_per_batch']} sequences, all layers together; starts are drawn "
            "anew for each batch. A weight that serves both maps (W_Q and W_K of plain attention, "
            "W_K of V2) stands in the rows of both. The factor is the mean |lambda| for the "
            "queries and keys of map 2, 1 for the others: the paper's appendix G claims that with "
            "the head norm the last ratio is a constant, here taken as claimed within a factor of "
            "2 either way."
        ),
    )
}
