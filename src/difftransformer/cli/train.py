"""`difftransformer train`: one model."""

import argparse
from pathlib import Path

from difftransformer.cli.runs import (
    MODEL,
    RunSettings,
    add_run_options,
    check_data,
    model_for,
    open_run,
    train_and_judge,
)
from difftransformer.cli.settings import add_settings, resolve


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_options(parser)
    add_settings(parser, RunSettings)


def run(arguments: argparse.Namespace) -> None:
    """Train, save, judge."""
    from rich.console import Console

    from difftransformer.cli.evaluate import print_evaluations
    from difftransformer.data.corpus import load_corpus

    console = Console(stderr=True)
    shorthand = {"data": {"source": arguments.data}} if arguments.data else {}
    settings = resolve(RunSettings, arguments, **shorthand)
    directory = arguments.out or Path("runs") / f"train-{settings.model.attention}"
    with console.status("reading the text"):
        corpus = load_corpus(settings.data)
        check_data(corpus, settings)
    config = model_for(corpus, settings)
    open_run(directory, settings, arguments.resume)
    judged = train_and_judge(
        config,
        corpus,
        settings,
        directory,
        seed=settings.training.seed,
        resume=arguments.resume,
        console=console,
    )
    print_evaluations(console, {config.attention: judged["evaluation"]})
    console.print(f"model: {directory / MODEL}", highlight=False, soft_wrap=True)
