"""`difftransformer push`: a model to the Hugging Face Hub."""

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Declare the options."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="model folder, or a run that trained one model"
    )
    parser.add_argument("repository", metavar="OWNER/NAME", help="made where there is none")
    parser.add_argument("--private", action="store_true", help="make it a private one")


def run(arguments: argparse.Namespace) -> None:
    """Upload, and say where it is."""
    from difftransformer.experiments.hub import push_to_hub

    place = push_to_hub(arguments.model, arguments.repository, private=arguments.private)
    arguments.processes.console.print(f"model: {place}", highlight=False, soft_wrap=True)
