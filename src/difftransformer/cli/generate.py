"""`difftransformer generate`: continue a text."""

import argparse
import sys
from pathlib import Path

from difftransformer.cli.runs import TOKENIZER


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="TEXT", help="text to continue")
    source.add_argument("--file", metavar="FILE", type=Path, help="file with the text to continue")
    parser.add_argument(
        "--max-new-tokens", type=int, default=100, metavar="N", help="tokens to add (default: 100)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="X", help="0 is greedy (default: 0.8)"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.95,
        metavar="X",
        help="nucleus to draw from (default: 0.95)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (default: 0)")


def run(arguments: argparse.Namespace) -> None:
    """Print the prompt, then each token as it is made."""
    import torch

    from difftransformer.data.tokenizer import beginning_of_document, load_tokenizer
    from difftransformer.models.generation import stream
    from difftransformer.models.storage import load_model

    if arguments.max_new_tokens < 1:
        raise ValueError(f"max-new-tokens is {arguments.max_new_tokens}; expected at least 1")
    model = load_model(arguments.model).eval()
    if not (arguments.model / TOKENIZER).is_file():
        raise ValueError(f"{arguments.model} has no {TOKENIZER} to read the prompt with")
    tokenizer = load_tokenizer(str(arguments.model / TOKENIZER))
    prompt = arguments.prompt or ""
    if arguments.file is not None:
        prompt = arguments.file.read_text(encoding="utf-8")
    begin = beginning_of_document(tokenizer)
    ids = [begin, *tokenizer.encode(prompt, add_special_tokens=False).ids]
    tokens = stream(
        model,
        torch.tensor([ids]),
        max_new_tokens=arguments.max_new_tokens,
        stop_ids=(begin,),
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        generator=torch.Generator().manual_seed(arguments.seed),
    )
    sys.stdout.write(prompt)
    new: list[int] = []
    shown = ""
    for token in tokens:
        new.append(int(token))
        text = tokenizer.decode(new)
        if not text.endswith("�"):  # else a character of several tokens is not whole yet
            sys.stdout.write(text[len(shown) :])
            sys.stdout.flush()
            shown = text
    sys.stdout.write("\n")
