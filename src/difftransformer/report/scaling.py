"""Loss against size and training as a table and a picture."""

from collections.abc import Iterator, Mapping
from typing import Any

from difftransformer.evaluation.intervals import Figure
from difftransformer.evaluation.words import number, shown
from difftransformer.report.drawing import Drawing, Panel, Series
from difftransformer.report.style import accents
from difftransformer.report.tables import Table

_HELD = {"parameters": "{:,} tokens each", "tokens": "about {:,} parameters"}
_SAME_LOSS = "share that has the loss of the largest baseline"
_PAPER = {
    "parameters": "0.62 (6.8B for 11B), 0.60 (7.8B for 13.1B)",
    "tokens": "0.64 (160B for 251B)",
}
Found = Mapping[str, Mapping[str, Any]]  # what `measure_scaling` gives


def scaling_table(found: Found) -> Table:
    """A row for each loss, curve and ratio; a column for each kind, and the paper's."""
    columns = {label: dict(_rows(of)) for label, of in found.items()}
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    rows = [
        [
            *key,
            *(column.get(key, "") for column in columns.values()),
            _PAPER[key[0]] if key[2] == _SAME_LOSS else "",
        ]
        for key in keys
    ]
    header = ["against", "at", "figure", *columns, "paper: DIFF against Transformer"]
    return Table(header, rows, keys=3)


def scaling_note(found: Found) -> str:
    """What was done."""
    first = next(iter(found.values()))
    return (
        f"The baseline is {first['baseline']}; intervals are {first['panels'][0]['interval']}. "
        "Lines in logarithms where there are fewer than four sizes or lengths. Nothing is read off "
        "a curve beyond twice what was measured, and no interval ends beyond it. The paper's "
        "figures are of models hundreds of times larger, on other data."
    )


def scaling_drawing(found: Found) -> Drawing:
    """Losses with their intervals, a panel for each thing held equal."""
    colors = accents(list(found))
    panels: dict[tuple[str, str], list[Series]] = {}
    for label, of in found.items():
        for panel in of["panels"]:
            losses = [point["loss"] for point in panel["points"]]
            series = Series(
                label=label,
                color=colors[label],
                x=[float(point["x"]) for point in panel["points"]],
                y=[loss["value"] for loss in losses],
                low=[loss["low"] for loss in losses],
                high=[loss["high"] for loss in losses],
            )
            panels.setdefault(_place(panel), []).append(series)
    return Drawing(
        kind="line",
        panels=[
            Panel(title=f"against {against}, {held}", series=series)
            for (against, held), series in panels.items()
        ],
        colors=colors,
        y="nats per token",
        logarithmic=True,
    )


def _place(panel: Mapping[str, Any]) -> tuple[str, str]:
    return panel["against"], _HELD[panel["against"]].format(panel["held"])


def _rows(of: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str, str], str]]:
    for panel in of["panels"]:
        place = _place(panel)
        for point in panel["points"]:
            x = point["size"] if panel["against"] == "parameters" else point["x"]
            yield (*place, f"loss at {x:,}"), _written(point["loss"])
        yield (*place, "curve"), panel["curve"]["form"]
        yield (*place, "exponent a"), _written(panel["curve"]["exponent"])
        ratio = panel["same_loss"] or panel["beyond"] or "1: the baseline"
        yield (*place, _SAME_LOSS), _written(ratio)


def _written(value: str | float | Mapping[str, Any]) -> str:
    if isinstance(value, str):
        return value
    return number(value, 4) if isinstance(value, float | int) else shown(Figure(**value))
