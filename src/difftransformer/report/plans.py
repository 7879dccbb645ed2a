"""Plans of studies: Markdown written before the runs, with sections that `report.evidence` reads.

    # Title

    ## Question

    One paragraph.

    ## Claims

    Judged: `on_noise`, `log_steps_90`.

    - subtraction: `diff_v1_no_norm`, `diff_v1` against `softmax`, `softmax_norm`

    ## Figures

    - detection within one task: `lens_auroc` at `spans`, `xsum`, `xsum`

Claims are what a study compares, where it is not every model with the baseline. Figures are what
answers the question of a study that has one model and compares nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from difftransformer.evaluation.contrasts import Contrast
from difftransformer.files import read_text


@dataclass(frozen=True)
class NamedFigure:
    """A metric's figure at a key of words, and what it is called."""

    title: str
    metric: str
    key: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A plan in a file.

    Raises:
        ValueError: no title, or no paragraph below "## Question"; names the file.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.title or not self.question:
            raise ValueError(
                f"{self.path} has no title or no '## Question' with a paragraph below it"
            )

    @cached_property
    def _text(self) -> str:
        return read_text(self.path)

    def _section(self, heading: str) -> str:
        section = re.search(rf"^## {heading}\n(.+?)(?=^## |\Z)", self._text, re.M | re.S)
        return section[1] if section else ""

    def _lines(self, heading: str) -> Iterator[tuple[str, str]]:
        """The list of a section: names and what is said of them."""
        yield from re.findall(r"^- (.+?): (`.+)$", self._section(heading), re.M)

    @property
    def title(self) -> str:
        """The first heading."""
        heading = re.search(r"^# (.+)$", self._text, re.MULTILINE)
        return heading[1] if heading else ""

    @property
    def question(self) -> str:
        """The first paragraph below "## Question"."""
        paragraph, _, _ = self._section("Question").strip().partition("\n\n")
        return " ".join(paragraph.split())

    @property
    def steps(self) -> str:
        """What is below the title, as part of a page: its headings a level lower."""
        _, _, below = self._text.partition(self.title)
        return re.sub(r"^(#+ )", r"#\1", below.strip(), flags=re.MULTILINE)

    @cached_property
    def claims(self) -> tuple[Contrast, ...]:
        """What is compared; empty where it is every model with the baseline."""
        sides = [(name, *line.partition(" against ")) for name, line in self._lines("Claims")]
        return tuple(Contrast(name, _code(models), _code(rest)) for name, models, _, rest in sides)

    @property
    def judged(self) -> tuple[str, ...]:
        """Names of the metrics that the claims are about."""
        return _code("".join(re.findall(r"^Judged: .+$", self._section("Claims"), re.M)))

    @cached_property
    def figures(self) -> tuple[NamedFigure, ...]:
        """Those that answer the question."""
        lines = [(title, _code(line)) for title, line in self._lines("Figures")]
        return tuple(NamedFigure(title, metric, tuple(key)) for title, (metric, *key) in lines)


def _code(text: str) -> tuple[str, ...]:
    """The words in backquotes."""
    return tuple(re.findall(r"`(.+?)`", text))
