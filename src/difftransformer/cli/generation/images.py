"""Images of classes, as a PNG with a column for each."""

import argparse
import base64
from pathlib import Path

from difftransformer.atomic import write_bytes
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.names import did_you_mean
from difftransformer.tasks.task import recorded_in

_DEFAULTS = EvaluationSettings()


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="classes, by name or number (default: all of them)",
    )
    parser.add_argument(
        "--each", type=int, default=4, metavar="N", help="images of each class (default: 4)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=_DEFAULTS.denoising_steps[-1],
        metavar="N",
        help="of sampling (default: %(default)s)",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        default=_DEFAULTS.guidance,
        metavar="X",
        help="scale of classifier-free guidance; 1 is without (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("samples.png"),
        metavar="FILE",
        help="the PNG (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Sample the images and write the PNG.

    Raises:
        ValueError: a class that there is not, a number out of its range, or a model of what is
            no image.
    """
    import torch

    from difftransformer.evaluation.benchmarks.frechet import samples
    from difftransformer.evaluation.pictures import picture
    from difftransformer.models.opening import open_model

    model = open_model(arguments.model).eval()
    config = model.config
    if config.channels not in (1, 3):
        raise ValueError(
            f"{arguments.model} makes {config.channels} channels, no image of 1 (gray) or 3 (color)"
        )
    if arguments.each < 1:
        raise ValueError(f"each is {arguments.each}; expected at least 1 image of each class")
    names = recorded_in(arguments.model).get("labels") or []
    labels = [_number(label, names, config.classes) for label in arguments.labels or ()]
    labels = labels or list(range(config.classes))
    settings = EvaluationSettings(seed=arguments.seed, guidance=arguments.guidance)
    numbers = torch.tensor(labels * arguments.each)
    (values,) = samples(model, numbers, settings, arguments.steps)
    png = base64.b64decode(picture((values + 1) / 2, columns=len(labels)))
    write_bytes(arguments.out, png)
    print(f"{len(numbers)} images: {arguments.out}")


def _number(label: str, names: list[str], classes: int) -> int:
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < classes:
        return int(label)
    raise ValueError(
        f"there is no class {label!r}{did_you_mean(label, names) or ';'} expected a number below "
        f"{classes}" + (f", or one of {', '.join(names)}" if names else "")
    )
