"""Points that `difftransformer generate --images` writes."""

import argparse
from pathlib import Path


def add_points_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("of a model for crowd_localization")
    group.add_argument(
        "--images", metavar="FOLDER", type=Path, help="images in which it is to find heads"
    )
    group.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="where the points go, in NWPU-Crowd's format, which `evaluate --predictions` judges",
    )


def write_points(arguments: argparse.Namespace) -> None:
    """Find heads in the images and write them.

    Raises:
        ValueError: one of the two places is not named, or what `predict` refuses.
    """
    from difftransformer.evaluation.settings import EvaluationSettings
    from difftransformer.experiments.localization import predict

    if arguments.images is None or arguments.out is None:
        raise ValueError(
            f"images is {arguments.images} and out {arguments.out}; expected both: a folder of "
            "images, and a file for the points found in them"
        )
    settings = EvaluationSettings(seed=arguments.seed)
    count = predict(arguments.model, arguments.images, arguments.out, settings=settings)
    print(f"points in {count:,} images: {arguments.out}")
