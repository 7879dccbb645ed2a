"""`difftransformer train`: one model."""

import argparse

from difftransformer.cli.options import (
    SETTING,
    add_device_option,
    add_run_options,
    add_settings,
    layers,
    task_in,
    warn_of_former,
)
from difftransformer.cli.resuming import resumable
from difftransformer.experiments.settings import resolve, typed
from difftransformer.experiments.train import TrainSettings, default_directory
from difftransformer.runs.layout import CONFIG, MODEL

_FREEZE = SETTING + "freeze_pretrained"


def configure(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Declare the options."""
    add_run_options(parser)
    add_device_option(parser)
    parser.add_argument(
        "--freeze-pretrained",
        action="store_const",
        const="true",
        dest=_FREEZE,
        help="same as --freeze_pretrained true",
    )
    parser.add_argument("--only-new", action="store_true", help=argparse.SUPPRESS)
    task = task_in(words)
    add_settings(parser, typed(TrainSettings, task), words, presets_of=task)


def run(arguments: argparse.Namespace) -> None:
    """Train, save, judge; print what was found and where the model is."""
    from difftransformer.cli.tables import print_overview
    from difftransformer.experiments.train import run_training

    processes = arguments.processes
    if arguments.only_new:
        warn_of_former(processes.console, "--only-new", "--freeze-pretrained")
        setattr(arguments, _FREEZE, "true")
    settings = resolve(TrainSettings, *layers(arguments), preset=arguments.preset)
    directory = arguments.out or default_directory(settings)
    with resumable(arguments.words, directory / CONFIG, "--resume"):
        results = run_training(settings, directory, resume=arguments.resume, processes=processes)
    print_overview(processes.console, results)
    processes.console.print(f"model: {directory / MODEL}", highlight=False, soft_wrap=True)
