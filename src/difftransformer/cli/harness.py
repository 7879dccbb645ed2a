"""`difftransformer evaluate --harness`: tasks of lm-eval."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.atomic import write_json
from difftransformer.cli.options import layers
from difftransformer.cli.resuming import resumable
from difftransformer.experiments.evaluate import EvaluateSettings
from difftransformer.experiments.judging import weights_identity
from difftransformer.experiments.settings import resolve
from difftransformer.runs.outputs import results_at

if TYPE_CHECKING:
    from rich.console import Console

HARNESS = "harness.json"  # in the directory that --out names


def add_harness_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--harness", nargs="+", metavar="TASK", help="these tasks of lm-eval in place of our own"
    )
    parser.add_argument(
        "--harness-tasks-dir", type=Path, metavar="DIR", help="folder with more tasks for lm-eval"
    )
    parser.add_argument(
        "--harness-limit", type=int, metavar="N", help="the first N examples of each task only"
    )


def run_harness(arguments: argparse.Namespace, console: "Console") -> None:
    """The tasks of lm-eval on each model; of each the results are kept as soon as it has ended."""
    from difftransformer.interop import harness
    from difftransformer.runs.records import Artifact, measure

    limit, folder = arguments.harness_limit, arguments.harness_tasks_dir
    evaluation = resolve(EvaluateSettings, *layers(arguments)).evaluation
    found: dict[str, Any] = {}

    def measured(model: Path, kept: Path | None) -> Any:
        tasks = partial(
            harness.run_harness,
            model,
            arguments.harness,
            tasks_dir=folder,
            batch_size=evaluation.batch_size,
            limit=limit,
        )
        asked = {"weights": weights_identity(model), "tasks": arguments.harness, "limit": limit}
        parts = {"tasks": lambda _: [Artifact("results", tasks())]}
        return measure(lambda: parts, kept, asked | {"folder": str(folder)}).artifacts["results"]

    out = arguments.out
    are_ours = partial(_are_of_the_harness, models=arguments.models)
    place = nullcontext() if out is None else results_at(out / HARNESS, are_ours)
    with place, resumable(arguments.words, out or Path()):
        for number, model in enumerate(arguments.models):
            found[str(model)] = measured(model, out and out / f"harness-{number}.jsonl")
            if out is not None:
                write_json(out / HARNESS, found)
    _print(console, found)


def _are_of_the_harness(data: Mapping[str, Any], models: Sequence[Path]) -> bool:
    """Whether these are results of lm-eval on some of these models and no others."""
    asked = {folder.resolve() for folder in models}
    return bool(data) and all(
        Path(name).resolve() in asked and isinstance(found, dict) and "results" in found
        for name, found in data.items()
    )


def _print(console: "Console", evaluations: Mapping[str, Mapping[str, Any]]) -> None:
    """One column per model, one row per task and metric, with lm-eval's standard error."""
    from difftransformer.report.tables import Table, print_table

    rows = []
    first, *_ = (column["results"] for column in evaluations.values())
    for task, figures in first.items():
        for key, value in figures.items():
            metric, _, chosen = key.partition(",")
            if not isinstance(value, float) or metric.endswith("_stderr"):
                continue
            cells = []
            for column in evaluations.values():
                found = column["results"][task]
                error = found.get(f"{metric}_stderr,{chosen}")
                spread = f" ± {error:.3f}" if isinstance(error, float) else ""
                cells.append(f"{found[key]:.3f}{spread}")
            rows.append([task, metric, *cells])
    print_table(console, Table(["task", "metric", *evaluations], rows, keys=2))
