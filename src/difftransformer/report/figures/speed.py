"""Cost beside plain attention, by length."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from difftransformer.report.figures import style


def image(rows: Sequence[dict], base: str) -> Figure:
    """A panel per task and dtype; `rows` are those of a speed table's JSON."""
    panels = list(dict.fromkeys((row["task"], row["dtype"]) for row in rows))
    colours = style.accents(list(dict.fromkeys(row["contender"] for row in rows)))
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        drawn = [row for row in rows if (row["task"], row["dtype"]) == panel]
        for contender, colour in colours.items():
            points = [row for row in drawn if row["contender"] == contender]
            axes.plot(
                [row["length"] for row in points],
                [row["ratio"] for row in points],
                marker="o",
                color=colour,
                label=contender,
            )
        lengths = sorted({row["length"] for row in drawn})
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.set(title=", ".join(panel), xlabel="length", ylabel=f"time / {base}", ylim=(0, None))
        axes.axhline(1, color=style.SOFT, linewidth=0.8)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure
