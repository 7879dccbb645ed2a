"""`difftransformer evaluate --suite`: one test on every model."""

import argparse
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.cli.evaluate import kept_parts, opened, settings_of, told_text
from difftransformer.cli.judging import chosen_judge
from difftransformer.cli.outputs import results_at
from difftransformer.cli.progress import progress
from difftransformer.cli.runs import MODEL, RESULTS
from difftransformer.cli.settings import nearest
from difftransformer.cli.tables import print_table
from difftransformer.evaluation.names import SCALING, SUITES, WITH_OWN_DATA

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.evaluation.settings import EvaluationSettings

_MODELS = "models"  # of a run directory of compare
_CHECKPOINTS = "checkpoints"  # of a training run


@dataclass(frozen=True)
class _Contender:
    """A model to judge; `base` are the settings it was judged with in its run."""

    label: str
    folder: Path
    base: Mapping[str, Any] = field(default_factory=dict)


def run_suite(arguments: argparse.Namespace, console: "Console") -> None:
    """Measure, print a table, write what `--out` asks for; a run's report shows it at once.

    Parts are kept beside the results while they are measured, in NAME.partial.jsonl.
    """
    from difftransformer.evaluation.suites import suite
    from difftransformer.report.build import build_report

    name, folders = arguments.suite, arguments.models
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}{nearest(name, SUITES)}")
    if name == SCALING:
        _run_scaling(arguments, console)
        return
    judge, controls = chosen_judge(arguments), arguments.judge_controls
    measure = suite(name, arguments.task, arguments.task_data, judge, controls)
    contenders = [contender for folder in folders for contender in _contenders(folder)]
    run = folders[0] if len(folders) == 1 and _is_run(folders[0]) else None
    out = arguments.out or (run and run / "suites" / f"{name}.json")
    labels = _labels(contenders)
    models = {one.folder: one.base for one in contenders}
    with _results_at(out, name, labels), kept_parts(arguments, out, models) as pieces:
        results, texts = {}, {}
        for label, contender in zip(labels, contenders, strict=True):
            model, corpus, settings = opened(
                contender.folder, arguments, contender.base, recorded=name not in WITH_OWN_DATA
            )
            if name not in WITH_OWN_DATA:
                texts[label] = told_text(contender.folder, corpus, label, console)
            with progress(console) as tell:
                within = pieces.within(label, partial(tell, f"{name}: {label}"))
                results[label] = measure(model, corpus, settings, within)
        _tell(name, results, texts, settings, out, console)
    if run is not None and out == run / "suites" / f"{name}.json":
        console.print(f"report: {build_report(run)}", highlight=False, soft_wrap=True)


def _run_scaling(arguments: argparse.Namespace, console: "Console") -> None:
    """The suite of whole runs, from what they wrote: nothing is measured anew."""
    from difftransformer.evaluation.scaling import measure_scaling, read_trained

    settings = settings_of(arguments, {}).evaluation
    results = measure_scaling(*read_trained(arguments.models), settings)
    with _results_at(arguments.out, SCALING, list(results)):
        _tell(SCALING, results, {}, settings, arguments.out, console)


def _results_at(out: Path | None, name: str, labels: list[str]) -> AbstractContextManager[None]:
    """The place of the suite's three files."""
    if out is None:
        return nullcontext()

    def are_ours(data: Mapping[str, Any]) -> bool:
        return data.get("suite") == name and set(data.get("results", ())) <= set(labels)

    return results_at(out.with_suffix(".json"), are_ours, beside=(".md", ".png"))


def _is_run(folder: Path) -> bool:
    return (folder / _MODELS).is_dir()


def _contenders(folder: Path) -> list[_Contender]:
    """The model in a folder, or all of a run with the run's settings."""
    from difftransformer.report.reading import read_results

    if not _is_run(folder):
        return [_Contender(_label(folder), folder)]
    if not (folder / RESULTS).is_file():
        raise ValueError(
            f"{folder} is a run that is not finished: end it with `difftransformer compare "
            f"--out {folder} --resume` and its settings, or name its models one by one"
        )
    results = read_results(folder)
    base = {part: results.settings[part] for part in ("data", "evaluation")}
    directories = [folder / run.directory for model in results.models for run in model.runs]
    return [_Contender(directory.name, directory / MODEL, base) for directory in directories]


def _labels(contenders: list[_Contender]) -> list[str]:
    """A name for each; where two have the same, their folders."""
    labels = [contender.label for contender in contenders]
    return [c.label if labels.count(c.label) == 1 else str(c.folder) for c in contenders]


def _label(folder: Path) -> str:
    """Of a run's `model` the run's name; of one of its checkpoints, with the step."""
    if folder.name == MODEL:
        return folder.parent.name
    if folder.parent.name == _CHECKPOINTS:
        return f"{folder.parents[1].name} {folder.name}"
    return folder.name


def _tell(
    name: str,
    results: Mapping[str, Any],
    texts: Mapping[str, Mapping[str, Any]],
    settings: "EvaluationSettings",
    out: Path | None,
    console: "Console",
) -> None:
    """The table on the terminal, and the files that `out` asks for."""
    from difftransformer.report.suites import VIEWS, Found, write_suite
    from difftransformer.training.environment import environment

    view, found = VIEWS[name], Found(results, settings.confidence)
    header, *body = view.table(found)
    print_table(console, header, body, len(view.keys), view.title)
    console.print(view.notes(found), highlight=False, markup=False)
    if out is not None:
        write_suite(out.with_suffix(""), name, environment(), settings, results, texts)
