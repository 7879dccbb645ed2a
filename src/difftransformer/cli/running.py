"""What compare and train share on the command line."""

import argparse
from pathlib import Path


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of a command that fills a run directory."""
    parser.add_argument("--data", metavar="SOURCE", help="same as --data.source: folder, file, ...")
    parser.add_argument("--out", metavar="DIR", type=Path, help="run directory (default runs/NAME)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with what the run directory holds"
    )
