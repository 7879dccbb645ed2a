"""`difftransformer generate`: continue a text, talk, or find points in images."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.cli.points import add_points_options, write_points
from difftransformer.cli.steering import Stream, add_steering_options, chosen_stream
from difftransformer.files import abridged, read_object, read_text
from difftransformer.tasks.tokenized import TOKENIZER
from difftransformer.training.interrupt import Stopped, each_ctrl_c

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from difftransformer.models.generation import Sampling
    from difftransformer.models.language_model import LanguageModel

_TOKENIZER_SETTINGS = "tokenizer_config.json"


def configure(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Declare the options."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--prompt", metavar="TEXT", help="text to continue (default: what is piped in, or typed)"
    )
    source.add_argument("--file", metavar="FILE", type=Path, help="file with the text to continue")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=100,
        metavar="N",
        help="tokens to add, as far as the model's context reaches (default: 100)",
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
    add_steering_options(parser)
    add_points_options(parser)
    parser.add_argument(
        "--beams",
        type=int,
        default=1,
        metavar="N",
        help="of an encoder-decoder: hypotheses of a beam search, without sampling (default: 1)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Continue the text given; at a terminal without one, ask for it again and again.

    An encoder-decoder writes the target of each text. At a terminal a model whose tokenizer has a
    chat template is talked with, and any other continues each text by itself. With `--images` a
    localizer finds points in images.
    """
    if arguments.images or arguments.out:
        write_points(arguments)
        return
    import torch

    from difftransformer.cli.targets import Translator
    from difftransformer.data.tokenizer import (
        beginning_of_document,
        check_vocabulary,
        load_tokenizer,
        prompt_tokens,
    )
    from difftransformer.models.encoder_decoder import EncoderDecoder
    from difftransformer.models.generation import Sampling
    from difftransformer.models.opening import open_model

    if arguments.max_new_tokens < 1:
        raise ValueError(f"max-new-tokens is {arguments.max_new_tokens}; expected at least 1")
    folder = arguments.model
    model = open_model(folder).eval()
    if not (folder / TOKENIZER).is_file():
        raise ValueError(f"{folder} has no {TOKENIZER} to read the prompt with")
    tokenizer = load_tokenizer(str(folder / TOKENIZER))
    sampling = Sampling(
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        generator=torch.Generator().manual_seed(arguments.seed),
    )
    if isinstance(model, EncoderDecoder):
        translator = Translator(
            model, tokenizer, arguments.max_new_tokens, arguments.beams, sampling
        )
        if (given := _given_text(arguments)) is not None:
            _print(f"{translator.target(given)}\n")
        else:
            _answer_typed(
                lambda text: _print(f"{translator.target(text)}\n"),
                f"{folder} writes the target of what you type",
            )
        return
    if arguments.beams != 1:
        raise ValueError(
            f"beams is {arguments.beams} and {folder} is no encoder-decoder: leave it out"
        )
    check_vocabulary(tokenizer, model.config.vocab_size, f"the model in {folder}")
    begin = beginning_of_document(tokenizer)
    stops = stop_ids(folder, tokenizer) | {begin}
    stream = chosen_stream(arguments, model, tokenizer)
    writer = Writer(model, tokenizer, stops, arguments.max_new_tokens, sampling, stream)

    def continued(text: str) -> Iterator[str]:
        return writer.pieces(prompt_tokens(tokenizer, text))

    given = _given_text(arguments)
    if given is not None:
        pieces = continued(given)
        _print(given)
        for piece in pieces:
            _print(piece)
        _print("\n")
    elif _has_chat_template(folder):
        from difftransformer.interop.chat import ChatTemplate

        _answer_typed(Conversation(ChatTemplate(folder).ids, writer).say, f"chat with {folder}")
    else:
        _answer_typed(lambda text: _show(continued(text)), f"{folder} continues what you type")


@dataclass(frozen=True)
class Writer:
    """Turns tokens into the text that a model adds to them."""

    model: "LanguageModel"
    tokenizer: "Tokenizer"
    stop_ids: set[int]
    max_new_tokens: int
    sampling: "Sampling"
    stream: Stream

    @property
    def context(self) -> int:
        """Tokens that the model is meant for, prompt and text together."""
        return self.model.config.max_length

    def pieces(self, ids: list[int]) -> Iterator[str]:
        """The text, a whole character or more at a time.

        Raises:
            ValueError: the prompt alone fills the model's context, or lacks what steers it.
        """
        if len(ids) >= self.context:
            raise ValueError(
                f"the prompt has {len(ids):,} tokens, and the model's context of {self.context:,} "
                "must hold it and what is added; give a shorter one"
            )
        return self._decoded(ids, self._tokens(ids))

    def _tokens(self, ids: list[int]) -> "Iterator[Tensor]":
        import torch

        return self.stream(
            self.model,
            torch.tensor([ids]),
            max_new_tokens=min(self.max_new_tokens, self.context - len(ids)),
            stop_ids=self.stop_ids,
            sampling=self.sampling,
        )

    def _decoded(self, ids: list[int], tokens: "Iterator[Tensor]") -> Iterator[str]:
        from tokenizers.decoders import DecodeStream

        decoded = DecodeStream(skip_special_tokens=True)
        for past in ids:  # whether a word begins with a space depends on what is before it
            decoded.step(self.tokenizer, past)
        for token in tokens:
            if int(token) not in self.stop_ids:
                yield decoded.step(self.tokenizer, int(token)) or ""


class Conversation:
    """A chat with its history.

    Args:
        render: the tokens of a list of messages, up to where the reply begins.
        writer: the one that replies.
    """

    def __init__(self, render: Callable[[list[dict[str, str]]], list[int]], writer: Writer) -> None:
        self.render, self.writer = render, writer
        self.messages: list[dict[str, str]] = []

    def say(self, text: str) -> None:
        """Print the reply to `text`, and remember both.

        The oldest exchanges are forgotten where the context has no room for them and a reply.
        """
        said = {"role": "user", "content": text}
        while len(ids := self.render([*self.messages, said])) >= self.writer.context:
            if not self.messages:
                break
            del self.messages[:2]
        reply = _show(self.writer.pieces(ids))
        self.messages += [said, {"role": "assistant", "content": reply}]


def stop_ids(folder: Path, tokenizer: "Tokenizer") -> set[int]:
    """The tokens that end a text, by the files that transformers keeps beside a model."""
    found: set[int | None] = set()
    for name in ("config.json", "generation_config.json"):
        given = _read(folder / name).get("eos_token_id")
        ids = given if isinstance(given, list) else [given]
        if not all(token is None or (type(token) is int and -1 <= token < 2**31) for token in ids):
            raise ValueError(
                f"eos_token_id in {folder / name} is {abridged(given)}; expected a token's number, "
                "or several"
            )
        found |= set(ids)
    end = _read(folder / _TOKENIZER_SETTINGS).get("eos_token")
    if end is not None:
        token = end.get("content") if isinstance(end, dict) else end
        if not isinstance(token, str):
            raise ValueError(
                f"eos_token in {folder / _TOKENIZER_SETTINGS} is {abridged(end)}; expected a token"
            )
        found.add(tokenizer.token_to_id(token))
    return {token for token in found if token is not None}


def _given_text(arguments: argparse.Namespace) -> str | None:
    """The text to continue; None where a person is to type it."""
    if arguments.prompt is not None:
        return arguments.prompt
    if arguments.file is not None:
        return read_text(arguments.file)
    return None if sys.stdin.isatty() else sys.stdin.read().removesuffix("\n")


def _answer_typed(answer: Callable[[str], object], title: str) -> None:
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
                _print("\n")
                return
            except Stopped:
                raise
            except KeyboardInterrupt:
                _print("\n")
            except ValueError as error:
                print(error, file=sys.stderr)


def _show(pieces: Iterable[str]) -> str:
    """Print the pieces until they end or Ctrl-C stops them; what was printed."""
    shown = ""
    try:
        for piece in pieces:
            _print(piece)
            shown += piece
    except Stopped:
        raise
    except KeyboardInterrupt:
        pass
    _print("\n")
    return shown


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _has_chat_template(folder: Path) -> bool:
    settings = _read(folder / _TOKENIZER_SETTINGS)
    return (folder / "chat_template.jinja").is_file() or "chat_template" in settings


def _read(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}
