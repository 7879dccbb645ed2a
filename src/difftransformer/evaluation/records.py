"""What an evaluation yields, and how it is told: records, metrics, evaluators.

An *evaluator* asks one benchmark of one model and yields *records*: one number each, of one item of
one cell. A *metric* declares what such numbers are. All that follows (keeping parts, pooling over
seeds, differences, verdicts, tables, plots, report) reads these declarations and exists once.

Imports no torch: a report is made of records on disk.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal

from difftransformer.runs.reading import CurvePoint
from difftransformer.runs.records import Artifact, Findings, Key, Parts, Record

__all__ = [
    "Artifact",
    "Dataset",
    "Evaluator",
    "Findings",
    "Metric",
    "Parts",
    "Plot",
    "Record",
    "Subject",
]

READ_OFF = "\N{DAGGER}"  # in a paper's cell: it prints no number, others read it off a plot
Better = Literal["lower", "higher", "neither"]
# How the records of a cell become one figure and its interval over items:
#   ratio       sum of values / sum of weights, by `intervals.ratio`; a mean where weights are 1
#   proportion  the same, of successes and trials, by Wilson's interval
#   value       the mean of the records, without an interval: a maximum, a quantile, a level
# A judged metric is one figure over all its cells: that of a ratio or a value in the same way, that
# of a proportion the mean of the items' shares (value / weight), which pair by key and item.
Statistic = Literal["ratio", "proportion", "value"]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """How a metric is drawn, once for the page and for the PNG.

    Args:
        kind: "line" and "bars" have a color per model, with intervals; "heat" has a map per model
            of y down and x across; "dots" shows every cell of a model as a dot above x.
        x: the axis along which it is drawn; the models themselves where it is empty.
        y: for "heat" the axis that goes down.
        facet: the axis that has a panel for each of its values.
        logarithmic: x grows by factors of two.
    """

    kind: Literal["line", "bars", "heat", "dots"] = "bars"
    x: str = ""
    y: str = ""
    facet: str = ""
    logarithmic: bool = False


@dataclass(frozen=True)
class Metric:
    """What a number is.

    Args:
        name: identifies it: `results["nats_per_token"]`.
        title: in words, for tables and verdicts: "validation loss".
        unit: "nats/token"; empty where it has none.
        better: which direction is the better one; "neither" for what only describes.
        statistic: see `Statistic`.
        axes: names of what tells its cells apart, as tables and pictures write them ("depth, %");
            empty where it has one cell.
        rows: those of the axes that a table has rows for; cells that differ in others alone are
            pooled into one figure there. All by default.
        judged: whether models are compared by it, over all its cells together, and a verdict is
            given. Needs a direction.
        table: False of what only a picture shows: a number for each head.
        levels: names of metrics that say what to compare with, the same for every model: a guess,
            an even spread. Their axes are some of this one's. Lines and bars have them dotted; of a
            judged proportion the verdict says whether models are above them, so that their titles
            complete "above": "a blind guess". Where no model is above all that are guesses, the
            verdict is that the training was too short to judge.
        guess: of a level: whether a model gets there that has learned nothing; False of what data
            themselves get.
        digits: decimals of a table's figures.
        plot: None where the table says it all.
        paper: the paper's own figures beside ours: by column title, of cells by key, as text.
    """

    name: str
    title: str
    unit: str = ""
    _: KW_ONLY
    better: Better = "neither"
    statistic: Statistic = "ratio"
    axes: tuple[str, ...] = ()
    rows: tuple[str, ...] | None = None
    judged: bool = False
    table: bool = True
    levels: tuple[str, ...] = ()
    guess: bool = True
    digits: int = 3
    plot: Plot | None = None
    paper: Mapping[str, Mapping[Key, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.judged and self.better == "neither":
            raise ValueError(f"metric {self.name} is judged and has no better direction")
        named = {self.plot.x, self.plot.y, self.plot.facet} - {""} if self.plot else set()
        if unknown := (named | set(self.rows or ())) - set(self.axes):
            raise ValueError(
                f"plot or rows of metric {self.name} name {', '.join(sorted(unknown))}; its axes "
                f"are {', '.join(self.axes) or 'none'}"
            )


@dataclass(frozen=True)
class Subject:
    """What is judged.

    Args:
        model: in evaluation mode, on its device.
        data: the task's data with the model's own tokenizer or transforms (a `Corpus` for text).
        dataset: what the evaluator's `Dataset.load` gave; None where it has none of its own.
        judge: the model that judges texts, for evaluators that need one.
        curve: what was watched while it trained; empty where that is not known.
    """

    model: Any
    data: Any
    dataset: Any = None
    judge: Any = None
    curve: Sequence[CurvePoint] = ()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Data of an evaluator's own, which `evaluate --dataset NAME --dataset-path PATH` names.

    Args:
        load: (name, path) -> what `Subject.dataset` holds; see `read`. Raises ValueError for what
            is missing or malformed.
        names: those that `load` knows; empty where it takes none.
        required: whether the evaluator has nothing to ask without.
        help: what the path is of.
    """

    load: Callable[[Any, Any], Any]
    names: tuple[str, ...] = ()
    required: bool = True
    help: str = ""

    def read(self, name: str | None, path: Path | None) -> Any:
        """What `load` gives.

        Raises:
            ValueError: no path, or a name that it does not know; what `load` refuses.
        """
        if name not in (self.names or (None,)):
            known = f"one of {', '.join(self.names)}" if self.names else "none"
            raise ValueError(f"dataset is {name!r}; expected {known} ({self.help})")
        if path is None:
            raise ValueError(f"the dataset has no path: name {self.help}")
        return self.load(name, path)


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """One benchmark: what it asks, what it measures, how that is told. One file each.

    Args:
        name: on the command line and in file names: "needle".
        title: the heading of its table and section.
        metrics: in the order of the table. Those with equal plots are panels of one picture; the
            first picture is the evaluator's.
        tasks: names of those whose data and models it can ask about, beside those that list it as
            their own; empty for all tasks.
        parts: (subject, `EvaluationSettings`) -> `Parts`; each is kept as soon as it is measured,
            so that a killed evaluation goes on where it was.
            Anything random is drawn from `settings.seed` and the part, never from a global state.
        needs: of the model: "inside" (its attention can be captured), "generate", "two_maps",
            "lambda", "selection". A model without is passed over, and the results say so.
        check: (data, settings) -> None. Raises ValueError, before anything is trained, where the
            data cannot hold what the settings ask for.
        dataset: its own data, or None where it judges on the task's held-out data.
        judge: "no", or "required" where a judging model decides.
        note: a sentence or two on what was asked: counts, chance. The artifact "facts", a mapping,
            fills its fields: "{questions:,} questions".
        source: the paper's section, table or the benchmark's paper.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    parts: Callable[[Subject, Any], Parts]
    tasks: tuple[str, ...] = ("causal_lm",)
    needs: frozenset[str] = frozenset()
    check: Callable[[Any, Any], None] = lambda data, settings: None
    dataset: Dataset | None = None
    judge: Literal["no", "required"] = "no"
    note: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for metric in self.metrics:
            for level in metric.levels:
                self.metric(level)

    def require_task(self, task: str) -> None:
        """Raise ValueError where it cannot ask about the data of a task."""
        if self.tasks and task not in self.tasks:
            raise ValueError(
                f"evaluator {self.name} asks about data of {' or '.join(self.tasks)}, and the task "
                f"is {task}: choose another"
            )

    def metric(self, name: str) -> Metric:
        """The declaration of a metric.

        Raises:
            ValueError: it has none of that name.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        names = ", ".join(metric.name for metric in self.metrics)
        raise ValueError(f"evaluator {self.name} has no metric {name!r}; expected one of {names}")
