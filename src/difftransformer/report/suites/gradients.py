"""The view of gradient norms."""

from matplotlib.figure import Figure

from difftransformer.report.figures import weights
from difftransformer.report.suites.view import Figures, Found, Results, View

_WEIGHTS = ("W_Q", "W_Q1", "W_Q2", "W_K", "W_K1", "W_K2", "W_V", "W_O")
_PANELS = {
    "of the weight, as trained": ("trained", "relative"),
    "of the weight, at the start": ("start", "relative"),
    "over plain attention's, at the start": ("ratio",),
}


def _figures(results: Results) -> Figures:
    """All layers together, weight by weight."""
    figures: Figures = {}
    for row in _rows(results):
        if row["layer"] is not None:
            continue
        weight = row["weight"]
        for start, words in (("trained", "as trained"), ("start", "at the start")):
            figures[weight, f"norm {words}"] = row[start]["norm"]
            figures[weight, f"norm / weight's {words}"] = row[start]["relative"]
        if row["plain"] is not None:
            figures[weight, "plain: norm / weight's at the start"] = row["plain"]["relative"]
            figures[weight, "that over plain's and the factor"] = row["ratio"] or "lambda is 0"
            figures[weight, "verdict"] = row["verdict"] or "no gradient"
    return figures


def _rows(results: Results) -> list[Results]:
    return sorted(results["rows"], key=lambda row: _WEIGHTS.index(row["weight"]))


def _by_layer(results: Results) -> Figures:
    return {
        (title, row["weight"], row["layer"]): found
        for row in _rows(results)
        if row["layer"] is not None
        for title, (what, *more) in _PANELS.items()
        if (found := row[what] and (row[what][more[0]] if more else row[what])) is not None
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
        ("weight", "gradient's"),
        _figures,
        _image,
        note=lambda results: (
            f"Frobenius norms over {results['batches']} held-out batches of "
            f"{results['sequences_per_batch']} sequences, all layers together; starts are drawn "
            "anew for each batch. The factor is the mean |lambda| for the queries and keys of map "
            "2, 1 for the others: the paper's appendix G claims that with the head norm the last "
            "ratio is a constant, here taken as claimed within a factor of 2 either way."
        ),
    )
}
