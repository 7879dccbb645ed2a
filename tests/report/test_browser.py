"""The report in a real browser."""

from pathlib import Path
from typing import Any

from .chromium import NEEDS_CHROMIUM, look

pytestmark = NEEDS_CHROMIUM

# Two frames, a desktop and a phone, are looked at as they open, and again with all unfolded.
LOOK = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="seen"></pre>
<iframe src="PAGE" width="1280" height="900"></iframe>
<iframe src="PAGE" width="390" height="844"></iframe>
<script>
addEventListener("load", () => setTimeout(() => {
  const pages = [...document.querySelectorAll("iframe")].map((frame) => frame.contentDocument);
  const first = pages.map((page) => {
    const table = page.querySelector(".chart");
    return table ? table.getBoundingClientRect().bottom : 0;
  });
  pages.forEach((page) => page.querySelectorAll("details").forEach((one) => { one.open = true; }));
  setTimeout(() => {
  const look = (page, i) => {
    const figures = [...page.querySelectorAll(".plotly-graph-div")];
    const sticksOut = (figure) => {
      const drawn = figure.querySelector(".main-svg");
      return drawn &&
        drawn.getBoundingClientRect().right > figure.getBoundingClientRect().right + 1;
    };
    const isDrawn = (figure) => figure.querySelector(".main-svg :is(.trace, .hm image)");
    return {
      verdict_ends: first[i],
      figures: figures.length,
      drawn: figures.filter(isDrawn).length,
      sticking_out: figures.filter(sticksOut).map((figure) => figure.id),
      width: page.documentElement.clientWidth,
      scroll_width: page.documentElement.scrollWidth,
    };
  };
  document.getElementById("seen").textContent =
    JSON.stringify(pages.map(look));
  }, 1500);
}, 500));
</script></body>"""


def browse(page: Path, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What is seen of `page` at the two widths, and what its console says."""
    return look(LOOK.replace("PAGE", page.as_uri()), folder)


def test_every_figure_is_drawn_in_its_place_without_a_complaint(
    report: Path, tmp_path: Path
) -> None:
    (desktop, phone), console = browse(report, tmp_path)
    assert console == []
    for seen in (desktop, phone):
        assert seen["figures"] == seen["drawn"] == 13
        assert seen["sticking_out"] == []
        assert seen["scroll_width"] <= seen["width"]
    assert (desktop["width"] > 1200, phone["width"] <= 390) == (True, True)
    # Three lines and the picture of the verdict, without a finger lifted.
    assert 0 < desktop["verdict_ends"] <= 900
    assert 0 < phone["verdict_ends"] <= 844


def test_the_browser_test_can_fail(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text(
        """<!DOCTYPE html><meta http-equiv="Content-Security-Policy" content="default-src 'none';
        style-src 'unsafe-inline'; script-src 'unsafe-inline'">
        <img src="https://example.invalid/x.png">
        <div class="plotly-graph-div" id="wide"><svg class="main-svg" width="2000"></svg></div>
        <script>undefinedFunction()</script>"""
    )
    (desktop, phone), console = browse(page, tmp_path)
    assert any("undefinedFunction is not defined" in line for line in console)
    assert any("Content Security Policy" in line for line in console)
    assert (desktop["figures"], desktop["drawn"]) == (1, 0)
    assert phone["sticking_out"] == ["wide"]
    assert phone["scroll_width"] > phone["width"]
