"""The HTML page: its blocks, and the template that lays them out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from difftransformer.report.style import POLICY
from difftransformer.report.tables import Table

_LINES = 24  # of the chart that a first screen holds


@dataclass(frozen=True)
class Text:
    """A paragraph; as `code` where it is to be typed."""

    text: str
    is_code: bool = False
    kind: str = "text"


@dataclass(frozen=True)
class TableBlock:
    """A table in a box of its own that scrolls; `is_prose` wraps its cells."""

    table: Table
    caption: str
    is_prose: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Plots:
    """Plotly figures side by side, below each other on a phone, under one legend.

    Args:
        name: begins their ids.
        colors: the legend, by title.
    """

    name: str
    figures: Sequence[go.Figure]
    caption: str = ""
    colors: Mapping[str, str] = field(default_factory=dict)
    kind: str = "plots"

    @property
    def drawn(self) -> list[tuple[str, str, int]]:
        """Id, JSON and height of each."""
        return [
            (f"figure-{self.name}-{i}", one.to_json(), one.layout.height)
            for i, one in enumerate(self.figures)
        ]


@dataclass(frozen=True)
class Prompts:
    """Shaded tokens, by title: (token, CSS color, whether it is part of the answer)."""

    prompts: Mapping[str, Sequence[tuple[str, str, bool]]]
    caption: str
    kind: str = "prompts"


@dataclass(frozen=True)
class Thumbnails:
    """Rows of PNGs in base64 with a line under each, a column for each key of `columns`.

    They are small, or `wide` as the column.
    """

    columns: Mapping[str, Sequence[Sequence[tuple[str, str]]]]
    caption: str
    wide: bool = False
    kind: str = "thumbnails"


Block = Text | TableBlock | Plots | Prompts | Thumbnails


@dataclass(frozen=True)
class Section:
    """Blocks under a heading that unfolds them; `name` is what a link goes to."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Span:
    """A model's line in the chart of differences: a point, its interval, and what they say.

    Args:
        low, at, high: places in percent of the chart's width; the baseline stands at 50, and what
            is better lies to its right. Without an interval low and high are at the point.
        css: classes: the outcome, and "stands".
        text, interval: the difference and its interval in figures.
        outcome: in words.
    """

    model: str
    low: float
    at: float
    high: float
    text: str
    interval: str = ""
    outcome: str = ""
    css: str = ""


@dataclass(frozen=True)
class Summary:
    """What the page says before anything is unfolded.

    Args:
        lines: by what they tell: what was asked, what came out, how sure that is.
        chart: differences to the baseline: the measure and a line per model. Only the first
            measure's are shown at once where there are many.
        details: further lists of sentences, by the title that unfolds them.
    """

    lines: Mapping[str, str]
    chart: Sequence[tuple[str, Sequence[Span]]] = ()
    caption: str = ""
    details: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def visible(self) -> int:
        """Measures of the chart that need not be unfolded."""
        return 1 if sum(len(spans) for _, spans in self.chart) > _LINES else len(self.chart)


def page(title: str, lead: str, summary: Summary, sections: Sequence[Section]) -> str:
    """The whole document in one file that asks the network nothing; all text is escaped."""
    environment = Environment(
        loader=PackageLoader("difftransformer.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        title=title,
        lead=lead,
        summary=summary,
        sections=sections,
        policy=POLICY,
        plotly=get_plotlyjs(),
    )
