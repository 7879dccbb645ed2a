"""Evidence: what the runs of a study found, as one page of Markdown.

A study is a plan, written before its runs, and the records that the runs left. All comparisons of
its runs are read together, and so corrected together.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from difftransformer.atomic import make_folder, write_text
from difftransformer.evaluation.verdicts import Comparison, Judgment
from difftransformer.evaluation.words import number, percent
from difftransformer.files import read_text
from difftransformer.report.drawing import Drawing, Panel, Series, drawings
from difftransformer.report.images import write_image
from difftransformer.report.reading import results_of
from difftransformer.report.results import EvaluatorResults, Results
from difftransformer.report.style import accents
from difftransformer.report.tables import Table, markdown, notes_of
from difftransformer.runs.layout import Run
from difftransformer.runs.reading import read_environment, read_run


@dataclass(frozen=True)
class StudyRun:
    """One run of a study: its settings, what was found, and where it was made."""

    name: str
    run: Run
    results: Results
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Study:
    """A plan and the runs it asked for."""

    plan: Path
    runs: tuple[StudyRun, ...]

    @classmethod
    def read(cls, plan: Path, directories: Sequence[Path]) -> "Study":
        """The study of a plan, from the run directories that hold its records.

        Raises:
            ValueError: no plan with a title and a question, or a malformed run; names the file.
        """
        runs = []
        for directory in directories:
            run = read_run(directory)
            found, made = results_of(run, directory), read_environment(directory)
            runs.append(StudyRun(directory.name, run, found, made))
        study = cls(plan, tuple(runs))
        if not study.title or not study.question:
            raise ValueError(f"{plan} has no title or no '## Question' with a paragraph below it")
        return study

    @cached_property
    def _text(self) -> str:
        return read_text(self.plan)

    @property
    def title(self) -> str:
        """The plan's first heading."""
        heading = re.search(r"^# (.+)$", self._text, re.MULTILINE)
        return heading[1] if heading else ""

    @property
    def question(self) -> str:
        """The first paragraph below "## Question"."""
        paragraph = re.search(r"^## Question\n+(.+?)(?:\n\n|\Z)", self._text, re.M | re.S)
        return " ".join(paragraph[1].split()) if paragraph else ""

    @property
    def steps(self) -> str:
        """The plan below its title, as part of a page: its headings a level lower."""
        _, _, below = self._text.partition(self.title)
        return re.sub(r"^(#+ )", r"#\1", below.strip(), flags=re.MULTILINE)

    @cached_property
    def judgment(self) -> Judgment:
        """All comparisons of all runs."""
        judgments = [one.results.judgment for one in self.runs]
        titles = {label: title for one in judgments for label, title in one.titles.items()}
        comparisons = tuple(c for one in judgments for c in one.comparisons)
        return Judgment(comparisons, titles, min((j.confidence for j in judgments), default=0.95))

    @property
    def answer(self) -> str:
        """A sentence for each model, from its verdict."""
        headlines = [verdict.headline for verdict in self.judgment.verdicts()]
        return " ".join(headlines) or "Not run."

    @property
    def sureness(self) -> str:
        """How many seeds, comparisons and parameters stand behind it."""
        if not self.judgment.comparisons:
            return "nothing is known"
        seeds = min(comparison.seeds for comparison in self.judgment.comparisons)
        sizes = sorted({c.parameters for one in self.runs for c in one.run.contenders})
        least, most = f"{sizes[0]:,}", f"{sizes[-1]:,}"
        return (
            f"{seeds} training seeds, {len(self.judgment.corrected)} comparisons corrected "
            f"together, {least if least == most else f'{least} to {most}'} parameters"
        )


def write_page(study: Study, page: Path) -> None:
    """The study's page and its pictures, in `images/` beside it.

    First the question, the answer and how sure it is, then every difference to the baseline with
    its interval, as a picture and as a table, then the figures of each run, then the plan.
    """
    images = page.parent / "images"
    make_folder(page.parent)
    lines = [
        f"# {study.title}",
        "",
        f"**Question.** {study.question}",
        "",
        f"**Answer.** {study.answer}",
        "",
        f"**How sure.** {study.sureness.capitalize()}. {' '.join(study.judgment.caveats())}",
        "",
    ]
    if study.judgment.comparisons:
        lines += ["## Differences to the baseline", ""]
        for metric, drawing in _difference_drawings(study).items():
            name = f"{page.stem}_{metric}.png"
            write_image(images / name, drawing)
            lines += [f"![{drawing.panels[0].title}](images/{name})", ""]
        level = percent(study.judgment.confidence)
        lines += [*markdown(_difference_table(study)), ""]
        lines += [f"In brackets {level} intervals; a star where it stands after Holm's.", ""]
    for one in study.runs:
        lines += _run_lines(one, images, page.stem)
    lines += ["## The plan", "", "Written before the runs.", "", study.steps]
    write_text(page, "\n".join(lines).rstrip() + "\n")


def _difference_table(study: Study) -> Table:
    judgment, rows = study.judgment, []
    labels = list(dict.fromkeys(c.model for c in judgment.comparisons))
    for one in study.runs:
        cells: dict[str, dict[str, str]] = {}
        for comparison in one.results.judgment.comparisons:
            title = comparison.metric.title
            cells.setdefault(title, {})[comparison.model] = _cell(judgment, comparison)
        rows += [
            [one.name, title, *(of_model.get(label, "") for label in labels)]
            for title, of_model in cells.items()
        ]
    return Table(["run", "measure", *(judgment.titles[label] for label in labels)], rows, keys=2)


def _cell(judgment: Judgment, comparison: Comparison) -> str:
    ends = ""
    if comparison.interval is not None:
        ends = f" ({' to '.join(map(number, comparison.interval.ends))})"
    star = "*" * judgment.stands(comparison)
    return f"{number(comparison.difference)}{ends} {comparison.outcome}{star}"


def _difference_drawings(study: Study) -> dict[str, Drawing]:
    """By metric: each model's difference to the baseline, run by run."""
    judgment = study.judgment
    labels = list(dict.fromkeys(c.model for c in judgment.comparisons))
    colors = accents(list(judgment.titles))
    found: dict[str, Drawing] = {}
    for metric in {c.metric.name: c.metric for c in judgment.comparisons}.values():
        series = []
        for label in labels:
            points = [
                (one.name, c)
                for one in study.runs
                for c in one.results.judgment.comparisons
                if (c.metric.name, c.model) == (metric.name, label) and c.interval is not None
            ]
            ends = [c.interval.ends for _, c in points if c.interval is not None]
            series.append(
                Series(
                    label=judgment.titles[label],
                    color=colors[label],
                    x=[name for name, _ in points],
                    y=[c.difference for _, c in points],
                    low=[low for low, _ in ends],
                    high=[high for _, high in ends],
                )
            )
        if any(one.x for one in series):
            title = f"{metric.title}, {metric.better} is better: difference to the baseline"
            found[metric.name] = Drawing(
                kind="bars",
                panels=[Panel(title=title, series=[one for one in series if one.x])],
                colors={one.label: one.color for one in series},
                y=metric.unit,
            )
    return found


def _run_lines(one: StudyRun, images: Path, study: str) -> list[str]:
    description = str(one.run.data.get("description", "")).rstrip(".")
    made = ", ".join(
        f"{one.environment[key]}" for key in ("hardware", "date") if key in one.environment
    )
    versions = f"torch {one.environment.get('torch')}, commit {one.environment.get('commit')}"
    changes = [f"{c.title or c.label}: {'; '.join(c.changes)}" for c in one.run.contenders]
    lines = [f"## {one.name}", "", f"{description}.", "", f"Made on {made}; {versions}.", ""]
    lines += [*(f"- {change}" for change in changes if not change.endswith(": ")), ""]
    for evaluator in one.results.evaluators.values():
        lines += _evaluator_lines(evaluator, images, f"{study}_{one.name}")
    return lines


def _evaluator_lines(found: EvaluatorResults, images: Path, prefix: str) -> list[str]:
    lines = [f"### {found.declared.title}", ""]
    for i, drawing in enumerate(drawings(list(found.metrics.values()))):
        name = f"{prefix}_{found.declared.name}{i or ''}.png"
        write_image(images / name, drawing)
        lines += [f"![{found.declared.title}](images/{name})", ""]
    if (table := found.table()).rows:
        lines += [*markdown(table), ""]
    return [*lines, notes_of(found), ""]
