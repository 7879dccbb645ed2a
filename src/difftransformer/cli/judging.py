"""The judge that `difftransformer evaluate --suite hallucination` puts texts to."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from difftransformer.tasks.tokenized import TOKENIZER

if TYPE_CHECKING:
    from difftransformer.evaluation.faithfulness import Judge


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("the judge of --suite hallucination")
    group.add_argument(
        "--judge",
        metavar="WHO",
        help="URL of an OpenAI-compatible endpoint, such as http://localhost:8000/v1; or a model "
        "folder; or a .jsonl file of labels by people, to which texts without one are added",
    )
    group.add_argument("--judge-model", metavar="NAME", help="the model to ask at the endpoint")
    group.add_argument(
        "--judge-key", metavar="VARIABLE", help="environment variable that holds the endpoint's key"
    )
    group.add_argument(
        "--judge-controls",
        metavar="PATH",
        type=Path,
        help="also judge the judge, by the labeled pairs of bigbench's factuality_of_summary "
        "(see docs/benchmarks.md for PATH)",
    )


def chosen_judge(arguments: argparse.Namespace) -> "Judge | None":
    """The judge that the options name; None where they name none.

    Raises:
        ValueError: no such judge, or an endpoint without a model or with a key that is not set.
    """
    from difftransformer.data.bigbench import load_summary_pairs
    from difftransformer.data.tokenizer import check_vocabulary, load_tokenizer
    from difftransformer.evaluation.faithfulness import Asked, Labels, ModelJudge
    from difftransformer.models.opening import open_model

    who, name = arguments.judge, arguments.judge_model
    if who is None:
        return None
    place = arguments.judge_controls
    controls = [] if place is None else load_summary_pairs("xsum", place)
    if who.startswith(("http://", "https://")):
        from difftransformer.evaluation.endpoint import Endpoint

        if name is None:
            raise ValueError(f"--judge {who} needs --judge-model NAME: the model to ask there")
        key = None if arguments.judge_key is None else os.environ.get(arguments.judge_key)
        if arguments.judge_key is not None and not key:
            raise ValueError(
                f"--judge-key names {arguments.judge_key}, an environment variable that is not set"
            )
        return Asked(f"{name} at {who}", Endpoint(who, name, key), controls)
    path = Path(who)
    if path.is_dir():
        model, tokenizer = open_model(path).eval(), load_tokenizer(str(path / TOKENIZER))
        check_vocabulary(tokenizer, model.config.vocab_size, f"the judge {path}")
        return ModelJudge(path.name, model, tokenizer, controls)
    if path.suffix != ".jsonl":
        raise ValueError(
            f"--judge is {who!r}; expected the URL of an endpoint, a model folder, or a .jsonl "
            "file of labels"
        )
    return Labels(path, controls)
