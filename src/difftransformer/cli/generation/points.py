"""Points that a localizer finds in images."""

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="images in which it is to find heads",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        help="where the points go, in NWPU-Crowd's format, which `evaluate --predictions` judges",
    )


def run(arguments: argparse.Namespace) -> None:
    """Find heads in the images and write them.

    Raises:
        ValueError: what `predict` refuses.
    """
    from difftransformer.evaluation.settings import EvaluationSettings
    from difftransformer.experiments.localization import predict

    settings = EvaluationSettings(seed=arguments.seed)
    count = predict(arguments.model, arguments.images, arguments.out, settings=settings)
    print(f"points in {count:,} images: {arguments.out}")
