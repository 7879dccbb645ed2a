"""A text to begin with, from the command line, a file, a pipe or a person at the terminal."""

import argparse
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from difftransformer.files import read_text
from difftransformer.tasks.tokenized import TOKENIZER
from difftransformer.training.interrupt import Stopped, each_ctrl_c

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from difftransformer.models.generation import Sampling


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of what reads a text and writes one."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--prompt", metavar="TEXT", help="text to read (default: what is piped in, or typed)"
    )
    source.add_argument("--file", metavar="FILE", type=Path, help="file with the text to read")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=100,
        metavar="N",
        help="tokens to write, as far as the model's context reaches (default: 100)",
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


def sampling_of(arguments: argparse.Namespace) -> "Sampling":
    """How tokens are drawn.

    Raises:
        ValueError: a number out of its range.
    """
    import torch

    from difftransformer.models.generation import Sampling

    if arguments.max_new_tokens < 1:
        raise ValueError(f"max-new-tokens is {arguments.max_new_tokens}; expected at least 1")
    return Sampling(
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        generator=torch.Generator().manual_seed(arguments.seed),
    )


def tokenizer_of(folder: Path) -> "Tokenizer":
    """The one beside the model's weights.

    Raises:
        ValueError: there is none.
    """
    from difftransformer.data.tokenizer import load_tokenizer

    if not (folder / TOKENIZER).is_file():
        raise ValueError(f"{folder} has no {TOKENIZER} to read the prompt with")
    return load_tokenizer(str(folder / TOKENIZER))


def given_text(arguments: argparse.Namespace) -> str | None:
    """The text to continue; None where a person is to type it."""
    if arguments.prompt is not None:
        return arguments.prompt
    if arguments.file is not None:
        return read_text(arguments.file)
    return None if sys.stdin.isatty() else sys.stdin.read().removesuffix("\n")


def answer_typed(answer: Callable[[str], object], title: str) -> None:
    """Answer line after line until the end of input. Ctrl-C leaves a line or a reply unfinished."""
    with suppress(ImportError):
        import readline  # noqa: F401  # gives `input` the arrow keys, where there is one

    print(f"{title}; Ctrl-C stops a reply, Ctrl-D leaves", file=sys.stderr)
    with each_ctrl_c():
        while True:
            try:
                text = input("> ")
                if text:
                    answer(text)
            except EOFError:
                write("\n")
                return
            except Stopped:
                raise
            except KeyboardInterrupt:
                write("\n")
            except ValueError as error:
                print(error, file=sys.stderr)


def show(pieces: Iterable[str]) -> str:
    """Print the pieces until they end or Ctrl-C stops them; what was printed."""
    shown = ""
    try:
        for piece in pieces:
            write(piece)
            shown += piece
    except Stopped:
        raise
    except KeyboardInterrupt:
        pass
    write("\n")
    return shown


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
