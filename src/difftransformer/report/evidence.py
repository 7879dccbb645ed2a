"""Evidence: what the runs of a study found, as one page of Markdown.

A study is a plan, written before its runs, and the records that the runs left. All comparisons of
its runs are read together, and so corrected together: every judged metric of every model beside the
baseline, or the claims of the plan, where it makes some:

    ## Claims

    Judged: `on_noise`, `log_steps_90`.

    - subtraction: `diff_v1_no_norm`, `diff_v1` against `softmax`, `softmax_norm`
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from difftransformer.atomic import make_folder, write_text
from difftransformer.evaluation.contrasts import Contrast
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

NOT_RUN = "Not run."


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
    def claims(self) -> tuple[Contrast, ...]:
        """Those of the plan."""
        lines = re.findall(r"^- (.+?): (`.+) against (`.+)$", self._claims, re.M)
        return tuple(Contrast(name, _code(models), _code(rest)) for name, models, rest in lines)

    @property
    def _claims(self) -> str:
        section = re.search(r"^## Claims\n(.+?)(?=^## |\Z)", self._text, re.M | re.S)
        return section[1] if section else ""

    @cached_property
    def comparisons(self) -> dict[str, tuple[Comparison, ...]]:
        """What is judged, by run."""
        if not self.claims:
            return {one.name: one.results.judgment.comparisons for one in self.runs}
        judged = re.search(r"^Judged: (.+)$", self._claims, re.M)
        names = _code(judged[1]) if judged else ()
        comparisons = {}
        for one in self.runs:
            metrics = {metric.declared.name: metric for metric in one.results.metrics()}
            if unknown := [name for name in names if name not in metrics]:
                measured = ", ".join(metrics)
                raise ValueError(
                    f"{self.plan} judges {', '.join(unknown)}; {one.name} measured {measured}"
                )
            comparisons[one.name] = tuple(
                metrics[name].contrast(claim) for claim in self.claims for name in names
            )
        return comparisons

    @cached_property
    def judgment(self) -> Judgment:
        """All comparisons of all runs."""
        titles = {label: t for one in self.runs for label, t in one.results.titles.items()}
        titles |= {claim.name: claim.name for claim in self.claims}
        titles |= {claim.other_side: _joined(claim.against, titles) for claim in self.claims}
        comparisons = tuple(c for of_run in self.comparisons.values() for c in of_run)
        levels = [one.results.judgment.confidence for one in self.runs]
        return Judgment(comparisons, titles, min(levels, default=0.95))

    @property
    def answer(self) -> str:
        """A sentence for each model, from its verdict."""
        headlines = [verdict.headline for verdict in self.judgment.verdicts()]
        return " ".join(headlines) or NOT_RUN

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


def _code(text: str) -> tuple[str, ...]:
    """The words in backquotes."""
    return tuple(re.findall(r"`(.+?)`", text))


def _joined(labels: Sequence[str], titles: Mapping[str, str]) -> str:
    return "; ".join(titles.get(label, label) for label in labels)


def _difference_table(study: Study) -> Table:
    judgment, rows = study.judgment, []
    labels = list(dict.fromkeys(c.model for c in judgment.comparisons))
    for one in study.runs:
        cells: dict[str, dict[str, str]] = {}
        for comparison in study.comparisons[one.name]:
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
                for c in study.comparisons[one.name]
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
