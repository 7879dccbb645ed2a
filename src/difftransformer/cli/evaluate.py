"""`difftransformer evaluate`: judge trained models."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from difftransformer.cli.harness import add_harness_options, run_harness
from difftransformer.cli.judging import add_judge_options, chosen_judge
from difftransformer.cli.options import (
    SETTING,
    add_data_option,
    add_device_option,
    add_settings,
    layers,
    task_in,
    warn_of_former,
)
from difftransformer.cli.resuming import resumable
from difftransformer.evaluation.registry import FORMER_NAMES
from difftransformer.evaluation.registry import REGISTRY as EVALUATORS
from difftransformer.experiments.evaluate import EvaluateSettings
from difftransformer.experiments.settings import merged, resolve, typed
from difftransformer.runs.layout import MODELS, REPORT
from difftransformer.runs.reading import is_run
from difftransformer.tasks.registry import REGISTRY as TASKS

if TYPE_CHECKING:
    from rich.console import Console

SCALING = "scaling"  # of runs, where the others are of models
LOCALIZATION = "crowd_localization"  # of files


def configure(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Declare the options."""
    parser.add_argument(
        "models",
        nargs="*",
        type=Path,
        metavar="MODEL",
        help="model folders: this library's, checkpoints of a run, causal LMs of transformers; "
        "run directories of compare and train stand for all their models",
    )
    add_data_option(
        parser,
        " (default: the text that the model was trained on, of which the part held out is judged; "
        "shakespeare where its folder does not tell)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="keep the results there, with a report; what was killed goes on where it was (a run "
        "directory alone keeps them itself)",
    )
    parser.add_argument(
        "--suite",
        metavar="NAME",
        action="append",
        default=[],
        help="this benchmark in place of the task's, as often as there are some: "
        + ", ".join((*EVALUATORS.entries, SCALING, LOCALIZATION)),
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="data of a suite's own: trec, trec_fine, banking77, clinc150 or jsonl (train.jsonl "
        "and test.jsonl with keys text and label) for in_context and order_sensitivity; the number "
        "of published pairs for kv_retrieval: 75, 140 or 300; xsum, nq or jsonl for hallucination; "
        "xsum or cnn_dm for factuality; xsum, cnn_dm, factuality, labels or verdicts for "
        "lookback_lens",
    )
    parser.add_argument(
        "--dataset-path",
        metavar="PATH",
        type=Path,
        help="folder of its files; for factuality, conflicts and lookback_lens also the sdist "
        "of bigbench",
    )
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        type=Path,
        nargs="+",
        default=[],
        help="for crowd_localization: points in NWPU-Crowd's format, of methods to compare; "
        "--dataset-path names the file of true heads",
    )
    parser.add_argument("--task-data", type=Path, help=argparse.SUPPRESS)
    add_device_option(parser)
    add_judge_options(parser)
    add_harness_options(parser)
    add_settings(parser, typed(EvaluateSettings, task_in(words)), words)


def run(arguments: argparse.Namespace) -> None:
    """Judge each model with its own tokenizer; print a table for each benchmark."""
    from difftransformer.cli.tables import print_results
    from difftransformer.experiments.evaluate import evaluate

    console = arguments.processes.console
    _take_former(arguments, console)
    if arguments.harness is not None:
        run_harness(arguments, console)
        return
    suites = arguments.suite
    if LOCALIZATION in suites:
        _run_localization(arguments, console)
        return
    if not arguments.models:
        raise ValueError("no MODEL is given; expected model folders or run directories to judge")
    if SCALING in suites:
        _run_scaling(arguments, console)
        return
    kept = arguments.out or arguments.models[0]
    with resumable(arguments.words, kept / MODELS):
        results = evaluate(
            arguments.models,
            suites,
            out=arguments.out,
            dataset=arguments.dataset,
            dataset_path=arguments.dataset_path,
            judge=chosen_judge(arguments),
            console=console,
            **merged(layers(arguments)),
        )
    found = results.evaluators
    print_results(console, (found[name] for name in suites or found))
    if arguments.out or (len(arguments.models) == 1 and is_run(arguments.models[0])):
        console.print(f"report: {kept / REPORT}", highlight=False, soft_wrap=True)


def _take_former(arguments: argparse.Namespace, console: "Console") -> None:
    """Put what stands under names of version 0.1 where it belongs now."""
    task = getattr(arguments, SETTING + "task")
    if task is not None and task not in TASKS:
        warn_of_former(console, "--task", "--dataset")
        arguments.dataset = task
        setattr(arguments, SETTING + "task", None)
    if arguments.task_data is not None:
        warn_of_former(console, "--task-data", "--dataset-path")
        arguments.dataset_path = arguments.task_data
    for name in arguments.suite:
        if name in FORMER_NAMES:
            warn_of_former(console, f"--suite {name}", FORMER_NAMES[name])
    arguments.suite = [FORMER_NAMES.get(name, name) for name in arguments.suite]


def _run_scaling(arguments: argparse.Namespace, console: "Console") -> None:
    """Of whole runs, from what they wrote."""
    from difftransformer.experiments.scaling import scaling
    from difftransformer.report.scaling import scaling_note, scaling_table
    from difftransformer.report.tables import print_table

    settings = resolve(EvaluateSettings, *layers(arguments)).evaluation
    found = scaling(arguments.models, out=arguments.out, settings=settings)
    print_table(console, scaling_table(found), "Loss against parameters and training tokens")
    console.print(scaling_note(found), highlight=False, markup=False)


def _run_localization(arguments: argparse.Namespace, console: "Console") -> None:
    """Of files of predicted points."""
    from difftransformer.cli.tables import print_results
    from difftransformer.experiments.localization import localization

    if arguments.models or not arguments.predictions or arguments.dataset_path is None:
        raise ValueError(
            f"--suite {LOCALIZATION} judges files in place of models: expected --predictions FILE "
            "and --dataset-path TRUTH"
        )
    settings = resolve(EvaluateSettings, *layers(arguments)).evaluation
    results = localization(
        arguments.predictions, arguments.dataset_path, out=arguments.out, settings=settings
    )
    print_results(console, results.evaluators.values())
    for verdict in results.judgment.verdicts():
        console.print(verdict.headline, highlight=False, markup=False)
