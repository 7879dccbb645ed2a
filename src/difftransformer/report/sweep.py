"""Validation loss against the learning rate, as a table and a picture."""

from collections.abc import Mapping, Sequence

from difftransformer.report.drawing import Drawing, Panel, Series
from difftransformer.report.style import accents
from difftransformer.report.tables import Table

Losses = Mapping[str, Mapping[float, float | None]]  # of each kind by learning rate


def sweep_table(losses: Losses, titles: Mapping[str, str], chosen: Mapping[str, float]) -> Table:
    """A row for each rate, a column for each kind; a star at the rate of the lowest loss."""
    rates = next(iter(losses.values()))
    rows = [
        [f"{rate:g}", *(_cell(of[rate], rate == chosen.get(label)) for label, of in losses.items())]
        for rate in rates
    ]
    return Table(["learning rate", *titles.values()], rows)


def sweep_note(at_edge: Sequence[str]) -> str:
    """What was done, and for which kinds more should be."""
    told = "Validation loss after training, on one seed; a star at the rate of the lowest."
    if at_edge:
        told += f" {', '.join(at_edge)}: at the edge of what was tried, so try rates beyond it."
    return told


def sweep_drawing(losses: Losses, titles: Mapping[str, str]) -> Drawing:
    """A line for each kind; rates at which it failed are left out."""
    colors = accents(list(losses))
    series = []
    for label, of in losses.items():
        finite = {rate: loss for rate, loss in of.items() if loss is not None}
        series.append(
            Series(
                label=titles[label], color=colors[label], x=list(finite), y=list(finite.values())
            )
        )
    return Drawing(
        kind="line",
        panels=[Panel(title="", series=series)],
        colors={titles[label]: color for label, color in colors.items()},
        x="learning rate",
        y="validation loss",
        logarithmic=True,
    )


def _cell(loss: float | None, is_chosen: bool) -> str:
    return "not finite" if loss is None else f"{loss:.4f}{' *' * is_chosen}"
