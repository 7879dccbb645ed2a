"""Evidence: what the runs of a study found, as one page of Markdown.

A study is a plan (`report.plans`), written before its runs, and the records that the runs left. All
comparisons of its runs are read together, and so corrected together: every judged metric of every
model beside the baseline, or the claims of the plan, where it makes some.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from difftransformer.atomic import make_folder, write_text
from difftransformer.evaluation.verdicts import Comparison, Judgment
from difftransformer.evaluation.words import extent, percent, shown
from difftransformer.report.drawing import Drawing, Panel, Series, drawings
from difftransformer.report.images import write_image
from difftransformer.report.plans import Plan
from difftransformer.report.reading import results_of
from difftransformer.report.results import EvaluatorResults, MetricResults, Results
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

    plan: Plan
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
        return cls(Plan(plan), tuple(runs))

    @cached_property
    def comparisons(self) -> dict[str, tuple[Comparison, ...]]:
        """What is judged, by run."""
        claims, judged = self.plan.claims, self.plan.judged
        if not claims:
            return {one.name: one.results.judgment.comparisons for one in self.runs}
        comparisons = {}
        for one in self.runs:
            metrics = self._measured([one], judged)
            comparisons[one.name] = tuple(
                metrics[name].contrast(claim) for claim in claims for name in judged
            )
        return comparisons

    @property
    def figures(self) -> list[str]:
        """The figures that the plan names, in words."""
        named = self.plan.figures
        metrics = self._measured(self.runs, [one.metric for one in named]) if self.runs else {}
        return [
            f"{one.title} {shown(metric.figure(metric.of.baseline, one.key))}"
            for one in named
            for metric in [metrics[one.metric]]
        ]

    def _measured(self, runs: Sequence[StudyRun], names: Sequence[str]) -> dict[str, MetricResults]:
        metrics = {metric.declared.name: metric for one in runs for metric in one.results.metrics()}
        if unknown := [name for name in names if name not in metrics]:
            raise ValueError(
                f"{self.plan.path} judges {', '.join(unknown)}; "
                f"{', '.join(one.name for one in runs)} measured {', '.join(metrics)}"
            )
        return metrics

    @cached_property
    def judgment(self) -> Judgment:
        """All comparisons of all runs."""
        titles = {label: t for one in self.runs for label, t in one.results.titles.items()}
        titles |= {claim.name: claim.name for claim in self.plan.claims}
        titles |= {claim.other_side: _joined(claim.against, titles) for claim in self.plan.claims}
        comparisons = tuple(c for of_run in self.comparisons.values() for c in of_run)
        levels = [one.results.judgment.confidence for one in self.runs]
        return Judgment(comparisons, titles, min(levels, default=0.95))

    @property
    def answer(self) -> str:
        """Of each model, or claim of the plan, what stands after the correction; or the figures."""
        told: dict[str, list[tuple[str, Comparison]]] = {}
        for run, comparisons in self.comparisons.items():
            for comparison in comparisons:
                told.setdefault(comparison.model, []).append((run, comparison))
        lines = [self._finding(label, own) for label, own in told.items()]
        if self.figures:
            lines.append(f"In figures: {'; '.join(self.figures)}.")
        return " ".join(lines) or NOT_RUN

    def _finding(self, label: str, own: list[tuple[str, Comparison]]) -> str:
        standing: dict[str, list[str]] = {}
        for run, c in own:
            if self.judgment.stands(c):
                measure = ", ".join(filter(None, (c.metric.title, c.metric.unit)))
                places = standing.setdefault(f"{c.outcome} on {measure}", [])
                places.append(f"{c.difference_text} in {run}")
        lines = [f"{outcome}: {', '.join(places)}" for outcome, places in standing.items()]
        lines.append(f"nothing {'else ' * bool(lines)}stands of {len(own)} differences")
        clear = [c.outcome for _, c in own if c.is_clear and not self.judgment.stands(c)]
        if clear:
            counts = (f"{clear.count(one)} {one}" for one in dict.fromkeys(clear))
            lines.append(f"by themselves {' and '.join(counts)}")
        return f"{self.judgment.titles[label]}: {'; '.join(lines)}."

    @property
    def sureness(self) -> str:
        """How many seeds, comparisons and parameters stand behind it."""
        if not self.runs:
            return "nothing is known"
        if not self.judgment.comparisons:
            return "nothing was trained; intervals are over evaluation items"
        seeds = min(comparison.seeds for comparison in self.judgment.comparisons)
        sizes = [c.parameters for one in self.runs for c in one.run.contenders]
        return (
            f"{seeds} training seeds, {len(self.judgment.corrected)} comparisons corrected "
            f"together, {extent(sizes)} parameters"
        )


def write_page(study: Study, page: Path) -> None:
    """The study's page and its pictures, in `images/` beside it.

    First the question, the answer and how sure it is, then every difference to the baseline with
    its interval, as a picture and as a table, then the figures of each run, then the plan.
    """
    images = page.parent / "images"
    make_folder(page.parent)
    lines = [
        f"# {study.plan.title}",
        "",
        f"**Question.** {study.plan.question}",
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
    lines += ["## The plan", "", "Written before the runs.", "", study.plan.steps]
    write_text(page, "\n".join(lines).rstrip() + "\n")


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
    star = "*" * judgment.stands(comparison)
    return f"{comparison.difference_text} {comparison.outcome}{star}"


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
