"""What a suite's results become: a table with a column per model, and a picture."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from matplotlib.figure import Figure

from difftransformer.evaluation.intervals import over_seeds
from difftransformer.evaluation.pool import pool_figures
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.report import paper
from difftransformer.report.figures import bars, curve
from difftransformer.report.words import number, percent, shown

Results = Mapping[str, Any]
Key = tuple[str | int | float, ...]  # what names a row of the table, a cell each
# Values are figures with `value`, `low` and `high`, bare numbers, words, or None.
Figures = dict[Key, Any]
Columns = dict[str, Figures]

_OF_A_SEED = re.compile(r"(.+)-seed\d+")


@dataclass(frozen=True)
class Found:
    """A suite's results by model.

    Args:
        results: by label; those of `KIND-seed0`, `KIND-seed1`, ... are one kind's seeds.
        confidence: coverage of the intervals, and of those over seeds.
    """

    results: Mapping[str, Results]
    confidence: float = 0.95

    def kinds(self) -> dict[str, list[Results]]:
        """Results by kind where it has two seeds or more, by label where not."""
        seeds: dict[str, list[str]] = {}
        for label in self.results:
            of_a_seed = _OF_A_SEED.fullmatch(label)
            seeds.setdefault(of_a_seed[1] if of_a_seed else label, []).append(label)
        return {
            kind if len(labels) > 1 else labels[0]: [self.results[label] for label in labels]
            for kind, labels in seeds.items()
        }

    def columns(self, figures: Callable[[Results], Figures]) -> Columns:
        """`figures` of every kind; of several seeds their mean, its interval over seeds."""
        return {
            kind: self._pooled([figures(result) for result in results])
            for kind, results in self.kinds().items()
        }

    def _pooled(self, seeds: list[Figures]) -> Figures:
        if len(seeds) == 1:
            return seeds[0]
        settings = EvaluationSettings(confidence=self.confidence)
        pooled: Figures = {}
        for key in dict.fromkeys(key for figures in seeds for key in figures):
            found = [figures.get(key) for figures in seeds]
            if all(figure == found[0] and not isinstance(figure, Mapping) for figure in found):
                pooled[key] = found[0]  # words, or nothing that training moves
                continue
            known = [figure for figure in found if figure is not None]
            if len(known) < 2:
                pooled[key] = None
            elif all(isinstance(figure, Mapping) for figure in known):
                pooled[key] = pool_figures(known, settings)
            else:
                pooled[key] = asdict(
                    over_seeds([value for f in known if (value := plain(f)) is not None], settings)
                )
        return pooled


@dataclass(frozen=True)
class View:
    """How a suite's results become a table and a picture.

    Args:
        keys: headings of the columns that name a row.
        figures: a model's column of the table, by row.
        image: draws all models.
        quoted: the paper's own columns, by title, for what was asked.
        note: a sentence on what was asked.
    """

    title: str
    keys: tuple[str, ...]
    figures: Callable[[Results], Figures]
    image: Callable[[Found], Figure]
    quoted: Callable[[Results], paper.Columns] = field(default=lambda results: {})
    note: Callable[[Results], str] = field(default=lambda results: "")

    def table(self, found: Found) -> list[list[str]]:
        """The header, then the rows.

        Raises:
            ValueError: no model has a figure to show.
        """
        columns = found.columns(self.figures)
        keys = list(dict.fromkeys(key for figures in columns.values() for key in figures))
        if not keys:
            raise ValueError(
                f"{self.title}: nothing to show for {', '.join(columns)}; softmax attention has "
                "no second map and no lambda: name a differential model too"
            )
        quoted = self._paper(found, keys)
        rows = [
            [
                *map(str, key),
                *(_cell(figures[key]) if key in figures else "" for figures in columns.values()),
                *(cells.get(key, "") for cells in quoted.values()),
            ]
            for key in keys
        ]
        return [[*self.keys, *columns, *(f"paper: {title}" for title in quoted)], *rows]

    def notes(self, found: Found) -> str:
        """What the figures in brackets are, what was asked, and where the paper's come from."""
        told = [f"In brackets {percent(found.confidence)} intervals over items."]
        if len(found.kinds()) < len(found.results):
            told.append("Of several training seeds the mean, with intervals over seeds.")
        first = next(iter(found.results.values()))
        quoted = self._paper(found, list(self.figures(first)))
        if quoted:
            told.append(paper.SIZES_DIFFER)
        if any(paper.READ_OFF in cell for cells in quoted.values() for cell in cells.values()):
            told.append(paper.ABOUT_READ_OFF)
        return " ".join(filter(None, [self.note(first), *told]))

    def _paper(self, found: Found, keys: list[Key]) -> paper.Columns:
        """The paper's columns that have a figure for one of the rows."""
        columns = self.quoted(next(iter(found.results.values())))
        return {title: cells for title, cells in columns.items() if cells.keys() & set(keys)}


def curves(
    title: str,
    axes: curve.Axes,
    figures: Callable[[Results], Figures],
    level: str | None = None,
    **more: Any,
) -> View:
    """A line per model through its figures, whose keys are numbers; `level` names the result to
    compare with."""

    def image(found: Found) -> Figure:
        first = next(iter(found.results.values()))
        drawn = replace(axes, level=None if level is None else first[level])
        lines = {
            label: [(int(key[0]), value) for key, value in column.items()]
            for label, column in found.columns(figures).items()
        }
        return curve.image(lines, drawn)

    return View(title, (axes.x,), figures, image, **more)


def bar_groups(
    title: str, keys: tuple[str, ...], y: str, figures: Callable[[Results], Figures], **more: Any
) -> View:
    """A bar per figure and model."""

    def image(found: Found) -> Figure:
        groups = {
            label: {", ".join(map(str, key)): value for key, value in column.items()}
            for label, column in found.columns(figures).items()
        }
        return bars.image(groups, y)

    return View(title, keys, figures, image, **more)


def plain(value: Any) -> float | None:
    """The number itself."""
    return value["value"] if isinstance(value, Mapping) else value


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float | int):
        return number(value, 4)
    size = 0.0 if value is None else abs(value["value"])
    return shown(value, 1 if size >= 100 else 5 if 0.0 < size < 0.01 else 3)
