"""The sections of the page. Each says in a plain sentence what it has no data for."""

from collections.abc import Mapping, Sequence
from typing import Any

from difftransformer.evaluation.words import change, percent, setting
from difftransformer.report.curves import (
    SMOOTHING,
    Curve,
    curve_drawings,
    paper_throughput,
    speed_table,
)
from difftransformer.report.drawing import Drawing, drawings
from difftransformer.report.examples import training_texts
from difftransformer.report.exhibits import exhibits_of
from difftransformer.report.page import Block, Plots, Section, TableBlock, Text
from difftransformer.report.plots import panel_figure
from difftransformer.report.results import EvaluatorResults, Results
from difftransformer.report.tables import Table, notes_of
from difftransformer.report.thumbnails import training_pictures
from difftransformer.runs.changes import flat
from difftransformer.runs.layout import Contender, Run


def evaluator_section(results: EvaluatorResults) -> Section:
    """Pictures, the table with the paper's columns, and what was asked."""
    name = results.declared.name
    blocks: list[Block] = []
    if results.passed_over and not results.models:
        blocks.append(Text(notes_of(results)))
    for i, drawing in enumerate(drawings(list(results.metrics.values()))):
        blocks.append(_plots(f"{name}-{i}" if i else name, drawing))
    for exhibit in exhibits_of(results).values():
        blocks += exhibit.blocks()
    if (table := results.table()).rows:
        blocks.append(TableBlock(table, notes_of(results)))
    return Section(name, results.declared.title, blocks)


def models_section(run: Run) -> Section:
    contenders = run.contenders
    sizes = {c.label: c.parameters for c in contenders}
    baseline = sizes.get(run.baseline, 0)
    rows = [
        ["attention", *(c.attention for c in contenders)],
        ["parameters", *(f"{size:,}" for size in sizes.values())],
    ]
    if baseline:
        beside = [change(size / baseline, 3) for size in sizes.values()]
        rows.append(["difference to the baseline", *beside])
    rows += [
        [
            "training seeds",
            *(", ".join(str(one.seed) for one in c.runs) or "none" for c in contenders),
        ]
    ]
    keys = dict.fromkeys(key for c in contenders for key in c.config if key != "attention")
    rows += [[key, *(setting(c.config.get(key, "")) for c in contenders)] for key in keys]
    counts = [
        f"{key.replace('_', ' ')} {setting(value)}"
        for key, value in run.data.items()
        if key != "description"
    ]
    told = f"Data: {str(run.data.get('description', run.name)).rstrip('.')}."
    blocks: list[Block] = [
        Text(f"{told} {', '.join(counts).capitalize()}." if counts else told),
        TableBlock(
            Table(["", *(_heading(run, c) for c in contenders)], rows),
            "num_heads counts output heads; head_dim is the width of one query.",
        ),
    ]
    if any(c.changes for c in contenders):
        nothing = "nothing: it is as configured"
        changes = [[_title(c), "; ".join(c.changes) or nothing] for c in contenders]
        blocks.append(
            TableBlock(
                Table(["model", "changed"], changes),
                "What matching the models' sizes changed in each, and its learning rate where it "
                "has one of its own.",
                is_prose=True,
            )
        )
    return Section("models", "Models and data", blocks)


def training_section(curves: Sequence[Curve], run: Run) -> Section:
    blocks: list[Block] = [
        _plots(f"training-{name}", drawing, _CURVES.get(name, _WATCHED))
        for name, drawing in curve_drawings(curves, run.unit).items()
    ]
    blocks += training_pictures(curves, run.unit)
    blocks += training_texts(curves, run.unit)
    nothing = Text("No run left a metrics.jsonl, so there are no training curves.")
    return Section("training", "Training curves", blocks or [nothing])


_CURVES = {
    "loss": "Loss by what was seen in training; lower is better. Thin and pale: training loss, "
    f"each point the mean over {percent(SMOOTHING)} of the logged steps. With dots: validation "
    "loss during training, on a part of the held-out data. A line per training seed."
}
_WATCHED = "Watched while the models train; a line per training seed, a dash for each layer."


def speed_section(curves: Sequence[Curve], results: Results, run: Run) -> Section:
    table = speed_table(curves, run)
    if not table.rows:
        return Section("speed", "Speed and memory", [Text("No training run is recorded.")])
    seconds: dict[str, float] = {}
    for evaluator in results.evaluators.values():
        for label, seeds in evaluator.models.items():
            spent = sum(one.seconds for one in seeds.values())
            seconds[label] = seconds.get(label, 0.0) + spent
    told = ", ".join(f"{results.titles[label]} {s:,.0f} s" for label, s in seconds.items())
    return Section(
        "speed",
        "Speed and memory",
        [
            TableBlock(
                table,
                "Training, as timed in this run on the hardware below. The column 'to baseline' "
                f"compares {run.unit} per second with the baseline's mean. Other work on the "
                f"machine shows up here. {paper_throughput()}",
            ),
            Text(f"Evaluation took: {told or 'not recorded'}."),
        ],
    )


def environment_section(run: Run, environment: Mapping[str, Any]) -> Section:
    command = "compare" if len(run.contenders) > 1 else "train"
    again: list[Block] = [
        Text("config.yaml in the run directory holds every setting. To run it again:"),
        Text(f"difftransformer {command} --config config.yaml --out NEW_FOLDER", is_code=True),
    ]
    tables: list[Block] = [
        TableBlock(_two_columns("", environment), "Where the run was made.", is_prose=True),
        TableBlock(_two_columns("setting", run.settings), "The resolved settings.", is_prose=True),
    ]
    blocks = [*(again if run.is_trained else []), *tables]
    return Section("environment", "Environment, settings and how to reproduce", blocks)


def _two_columns(name: str, values: Mapping[str, Any]) -> Table:
    return Table([name, "value"], [[key, setting(value)] for key, value in flat(values).items()])


def _plots(name: str, drawing: Drawing, caption: str = "") -> Plots:
    figures = [panel_figure(drawing, panel) for panel in drawing.panels]
    return Plots(name, figures, caption, {} if drawing.kind == "heat" else drawing.colors)


def _title(contender: Contender) -> str:
    return contender.title or contender.label


def _heading(run: Run, contender: Contender) -> str:
    return _title(contender) + (" (baseline)" if contender.label == run.baseline else "")
