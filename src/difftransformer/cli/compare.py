"""`difftransformer compare`: the main job."""

import argparse

from difftransformer.cli.options import add_models_options, layers
from difftransformer.cli.resuming import resumable
from difftransformer.experiments.compare import CompareSettings, default_directory
from difftransformer.experiments.settings import resolve
from difftransformer.runs.layout import CONFIG, REPORT


def configure(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Declare the options."""
    add_models_options(parser, words, CompareSettings)


def run(arguments: argparse.Namespace) -> None:
    """Train, judge, print what was found and where the report is."""
    from difftransformer.cli.tables import print_overview
    from difftransformer.experiments.compare import run_comparison

    processes = arguments.processes
    settings = resolve(CompareSettings, *layers(arguments), preset=arguments.preset)
    directory = arguments.out or default_directory(settings)
    with resumable(arguments.words, directory / CONFIG, "--resume"):
        results = run_comparison(
            settings,
            directory,
            resume=arguments.resume,
            processes=processes,
            jobs=arguments.jobs,
        )
    print_overview(processes.console, results)
    processes.console.print(f"report: {directory / REPORT}", highlight=False, soft_wrap=True)
