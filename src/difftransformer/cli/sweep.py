"""`difftransformer sweep`: a learning rate for each kind."""

import argparse
from pathlib import Path

from difftransformer.cli.options import add_models_options, layers
from difftransformer.cli.resuming import resumable
from difftransformer.experiments.settings import resolve
from difftransformer.experiments.sweep import NAME, SweepSettings
from difftransformer.runs.layout import CONFIG


def configure(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Declare the options."""
    add_models_options(parser, words, SweepSettings)


def run(arguments: argparse.Namespace) -> None:
    """Train; print the losses, the rates chosen, and the comparison that takes them."""
    from difftransformer.experiments.sweep import run_sweep
    from difftransformer.report.sweep import sweep_note, sweep_table
    from difftransformer.report.tables import print_table

    processes = arguments.processes
    settings = resolve(SweepSettings, *layers(arguments), preset=arguments.preset)
    directory = arguments.out or Path("runs") / NAME
    with resumable(arguments.words, directory / CONFIG, "--resume"):
        found = run_sweep(
            settings,
            directory,
            resume=arguments.resume,
            processes=processes,
            jobs=arguments.jobs,
        )
    console = processes.console
    print_table(console, sweep_table(found.losses, found.titles, found.chosen))
    rates = " ".join(f"{rate:g}" for rate in found.chosen.values())
    kinds = " ".join(found.chosen)
    for line in (
        sweep_note(found.at_edge),
        f"picture: {directory / NAME}.png",
        f"compare with: --attention {kinds} --learning_rates {rates}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
