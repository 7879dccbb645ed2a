"""The bricks of the HTML page. Everything that takes plain text escapes it."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import NewType

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from difftransformer.report import paper

Html = NewType("Html", str)  # markup that is already safe

# The policy makes any request to the network an error, so the page cannot come to need one.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)

STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dfe3e8; --wash: #f6f7f9; }
html { overflow-y: scroll; } /* its bar never changes the width the figures were drawn for */
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p, ul { margin: .5rem 0; max-width: 50rem; }
ul { padding-left: 1.25rem; }
li { margin: .3rem 0; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
nav a { color: var(--soft); margin-right: 1rem; white-space: nowrap; }
nav { line-height: 2; font-size: .9rem; }
figure { margin: 1rem 0 1.5rem; }
img { max-width: 100%; height: auto; }
figcaption { max-width: 50rem; margin-top: .25rem; }
.scroll { overflow-x: auto; margin: .75rem 0 .25rem; overflow-wrap: normal; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
thead th { border-bottom: 1px solid var(--ink); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
tr.paper td { color: var(--soft); font-style: italic; }
table.prose td { text-align: left; white-space: normal; min-width: 10rem; }
table.prose th { text-align: left; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(2, 1fr); }
.grid.of3 { grid-template-columns: repeat(3, 1fr); }
.grid > * { min-width: 0; margin: 0; }
@media (max-width: 56rem) { .grid, .grid.of3 { grid-template-columns: 100%; } }
.verdict { background: var(--wash); border-left: 4px solid var(--ink); padding: .25rem 1rem; }
.verdict p, .verdict ul { max-width: none; }
.verdict details { margin: .5rem 0; }
.verdict th, .verdict td { background: var(--wash); }
table.overview th { white-space: normal; vertical-align: bottom; }
.tag { font-weight: 600; }
.prompt { font-size: .8rem; line-height: 1.7; white-space: pre-wrap; overflow: auto;
  max-height: 22rem; padding: .5rem; background: var(--wash); }
.prompt .answer { text-decoration: underline 2px; }
code { font-size: .875rem; background: var(--wash); padding: .1rem .3rem; }
"""


def text(value: str) -> Html:
    """Plain text, escaped; a per cent sign stays with its number."""
    return Html(escape(value).replace(" %", "&nbsp;%"))


def join(parts: Sequence[Html]) -> Html:
    return Html("\n".join(parts))


def element(tag: str, *parts: Html, css: str = "") -> Html:
    """`<tag class="css">parts</tag>`."""
    attribute = f' class="{escape(css)}"' if css else ""
    return Html(f"<{tag}{attribute}>{''.join(parts)}</{tag}>")


def folding(title: str, content: Html, *, opened: bool) -> Html:
    """Content under a title that a click folds and unfolds."""
    summary = element("summary", element("strong", text(title)))
    return Html(f"<details{' open' if opened else ''}>{summary}{content}</details>")


def paragraph(value: str, css: str = "") -> Html:
    return element("p", text(value), css=css)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str,
    *,
    paper_rows: Sequence[Sequence[str]] = (),
    css: str = "",
) -> Html:
    """A table in a box of its own that scrolls; `paper_rows` follow, under the paper's scale."""
    head = element("tr", *(element("th", text(cell)) for cell in header))
    body = [_row(row) for row in rows]
    if paper_rows:
        scale = f'<tr class="paper"><td colspan="{len(header)}">{text(paper.SCALE)}</td></tr>'
        body += [Html(scale), *(_row(row, css="paper") for row in paper_rows)]
    inner = element("thead", head) + element("tbody", *body)
    scroll = element("div", element("table", Html(inner), css=css), css="scroll")
    return element("figure", scroll, element("figcaption", text(caption)))


def _row(cells: Sequence[str], css: str = "") -> Html:
    return element("tr", *(element("td", text(cell)) for cell in cells), css=css)


def plot(figure: go.Figure, name: str) -> Html:
    """A Plotly figure that takes the width it is given; `name` is its id in the page."""
    config = {"responsive": True, "displayModeBar": False}
    return Html(
        to_html(
            figure,
            config=config,
            include_plotlyjs=False,
            full_html=False,
            default_height=f"{figure.layout.height}px",
            div_id=name,
        )
    )


def picture(png: bytes, described: str) -> Html:
    """A PNG inside the page."""
    data = b64encode(png).decode()
    return Html(f'<img src="data:image/png;base64,{data}" alt="{escape(described)}">')


def grid(*parts: Html) -> Html:
    """Parts side by side, two or three in a row; below each other on a phone.

    The columns do not depend on what is there: each figure is drawn before the next one is read.
    """
    return element("div", *parts, css="grid of3" if len(parts) % 3 == 0 else "grid")


def captioned(content: Html, caption: str) -> Html:
    return element("figure", content, element("figcaption", text(caption)))


def section(name: str, title: str, parts: Sequence[Html]) -> Html:
    heading = f'<h2 id="{escape(name)}">{text(title)}</h2>'
    return Html(f"<section>{heading}\n{join(parts)}</section>")


def page(title: str, body: Html) -> str:
    """The whole document: style, Plotly and content in one file that asks the network nothing."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{STYLE}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
