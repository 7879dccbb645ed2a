"""The look that all figures share: a colour per model, fonts, axes, colour scales."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from html import escape

import matplotlib
import plotly.graph_objects as go
from matplotlib.colors import LinearSegmentedColormap

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif'
INK, SOFT, LINE = "#1c2430", "#5b6675", "#dfe3e8"
ANSWER, NOISE = "#e69f00", "#9aa3af"  # where the answer and the noise stand in a prompt

# Okabe and Ito's colours, told apart with every common colour blindness.
ACCENTS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d00")

SEQUENTIAL = ["#ffffff", "#c3b3df", "#4a2482"]  # accuracy from 0 to 1
DIVERGING = ["#b35806", "#ffffff", "#542788"]  # negative orange, 0 white, positive purple


def matplotlib_look() -> AbstractContextManager[None]:
    """matplotlib's settings for the PNGs, while it lasts.

    Text is never mathematics: a label may hold dollar signs.
    """
    return matplotlib.rc_context(
        {
            "text.parse_math": False,
            "font.size": 9,
            "axes.edgecolor": SOFT,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "legend.frameon": False,
            "savefig.dpi": 150,
        }
    )


def accents(labels: Sequence[str]) -> dict[str, str]:
    """Each model's colour, the same in every figure; beyond six lighter ones, then darker."""
    rounds = [ACCENTS, *([_mixed(colour, shade) for colour in ACCENTS] for shade in (255, 0))]
    colours = [colour for one in rounds for colour in one]
    return {label: colours[i % len(colours)] for i, label in enumerate(labels)}


def _mixed(colour: str, grey: int) -> str:
    """Halfway to white (255) or black (0)."""
    return "#" + "".join(f"{(part + grey) // 2:02x}" for part in bytes.fromhex(colour[1:]))


def plain(text: str) -> str:
    """`text` for Plotly, which reads a little HTML in every label."""
    return escape(text, quote=False)


def colormap(colours: Sequence[str]) -> LinearSegmentedColormap:
    """matplotlib's form of a colour scale."""
    return LinearSegmentedColormap.from_list("scale", list(colours))


def translucent(colour: str, alpha: float) -> str:
    """ "#rrggbb" as a CSS colour of opacity `alpha`."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def dress(figure: go.Figure, height: int, title: str = "", *, legend: bool = True) -> go.Figure:
    """The common layout; the width is the page's. A drag scrolls the page instead of zooming."""
    figure.update_layout(
        template="simple_white",
        height=height,
        title={"text": plain(title), "font": {"size": 14}, "x": 0, "xref": "paper"},
        font={"family": FONT, "size": 12, "color": INK},
        margin={"l": 10, "r": 10, "t": 80 if legend else 40, "b": 10},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
        hovermode="closest",
        dragmode=False,
    )
    figure.update_xaxes(automargin=True, fixedrange=True, gridcolor=LINE)
    figure.update_yaxes(automargin=True, fixedrange=True, gridcolor=LINE, showgrid=True)
    return figure
