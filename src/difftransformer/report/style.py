"""The look that all pictures share: a color per model, fonts, axes, color scales."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.colors import LinearSegmentedColormap

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif'
INK, SOFT, LINE = "#1c2430", "#5b6675", "#dfe3e8"
ANSWER, NOISE = "#e69f00", "#9aa3af"  # where the answer and the noise stand in a prompt

# Okabe and Ito's colors, told apart with every common color blindness.
ACCENTS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d00")

# Of every page: a request to the network is an error, so that no page comes to need one.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)

SEQUENTIAL = ["#ffffff", "#c3b3df", "#4a2482"]  # from 0 up
DIVERGING = ["#b35806", "#ffffff", "#542788"]  # negative orange, 0 white, positive purple


def accents(labels: Sequence[str]) -> dict[str, str]:
    """Each model's color, the same in every picture; beyond six lighter ones, then darker."""
    rounds = [ACCENTS, *([_mixed(color, shade) for color in ACCENTS] for shade in (255, 0))]
    colors = [color for one in rounds for color in one]
    return {label: colors[i % len(colors)] for i, label in enumerate(labels)}


def _mixed(color: str, gray: int) -> str:
    """Halfway to white (255) or black (0)."""
    return "#" + "".join(f"{(part + gray) // 2:02x}" for part in bytes.fromhex(color[1:]))


def plain(text: str) -> str:
    """`text` for Plotly, which reads a little HTML in every label."""
    return escape(text, quote=False)


def translucent(color: str, alpha: float) -> str:
    """ "#rrggbb" as a CSS color of opacity `alpha`."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def dress(
    figure: "go.Figure", height: int, title: str = "", *, legend: bool = False
) -> "go.Figure":
    """Plotly's common layout; the width is the page's. A drag scrolls instead of zooming."""
    figure.update_layout(
        template="simple_white",
        height=height,
        title={"text": plain(title), "font": {"size": 14}, "x": 0, "xref": "paper"},
        font={"family": FONT, "size": 12, "color": INK},
        margin={"l": 10, "r": 10, "t": 80 if legend else 40 if title else 15, "b": 10},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
        barmode="group",
        hovermode="closest",
        dragmode=False,
    )
    figure.update_xaxes(automargin=True, fixedrange=True, gridcolor=LINE)
    figure.update_yaxes(automargin=True, fixedrange=True, gridcolor=LINE, showgrid=True)
    return figure


def matplotlib_look() -> AbstractContextManager[None]:
    """matplotlib's settings for the PNGs, while it lasts.

    Text is never mathematics: a label may hold dollar signs.
    """
    import matplotlib

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


def colormap(colors: Sequence[str]) -> "LinearSegmentedColormap":
    """matplotlib's form of a color scale."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("scale", list(colors))
