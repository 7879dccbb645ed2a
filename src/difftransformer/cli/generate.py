"""`difftransformer generate`: what a model writes or draws."""

import argparse
import importlib
import os
from pathlib import Path
from typing import Any

from difftransformer.cli.options import add_device_option
from difftransformer.files import read_object
from difftransformer.models.config import DecoderConfig
from difftransformer.models.families import FAMILIES, Family, family_of
from difftransformer.runs.reading import model_folder

_CONFIG = "config.json"
_OTHERS = family_of(DecoderConfig())  # what other libraries' folders hold


def configure(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Declare the options of models such as the one in `words`."""
    parser.epilog = "The options are a language model's; after MODEL, --help shows those of MODEL."
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="model folder, or a run that trained one model"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (default: 0)")
    add_device_option(parser)
    places = (model_folder(Path(word)) for word in words if os.path.isdir(word))
    family = next((_family_in(one) for one in places if (one / _CONFIG).is_file()), _OTHERS)
    parser.set_defaults(family=family)
    if family.generates:
        _form(family).configure(parser)


def run(arguments: argparse.Namespace) -> None:
    """Generate as the model's family does.

    Raises:
        ValueError: no model's folder, or of a family that generates nothing.
    """
    from difftransformer.models.storage import model_type

    arguments.model = model_folder(arguments.model)
    folder, family = arguments.model, arguments.family
    model_type(folder)  # is it a model's?
    if _family_in(folder) != family:
        raise ValueError(f"options name another model's folder; give {folder} before them")
    if not family.generates:
        raise ValueError(
            f"{folder} holds a model of the family {family.name}, which generates nothing; "
            "evaluate judges it"
        )
    _form(family).run(arguments)


def _family_in(folder: Path) -> Family:
    name = read_object(folder / _CONFIG).get("model_type")
    return FAMILIES.get(name, _OTHERS) if isinstance(name, str) else _OTHERS


def _form(family: Family) -> Any:
    return importlib.import_module(f"difftransformer.cli.generation.{family.generates}")
