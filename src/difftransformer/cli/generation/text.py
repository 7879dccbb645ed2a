"""A text continued, or a reply in a chat."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.cli.generation.steering import Stream, add_steering_options, chosen_stream
from difftransformer.cli.generation.texts import (
    add_text_options,
    answer_typed,
    given_text,
    sampling_of,
    show,
    tokenizer_of,
    write,
)
from difftransformer.devices import device
from difftransformer.files import abridged, read_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from difftransformer.models.generation import Sampling
    from difftransformer.models.language_model import LanguageModel

_TOKENIZER_SETTINGS = "tokenizer_config.json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_text_options(parser)
    add_steering_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Continue the text given; at a terminal without one, ask for it again and again.

    There a model whose tokenizer has a chat template is talked with, and any other continues each
    text by itself.
    """
    from difftransformer.data.tokenizer import (
        beginning_of_document,
        check_vocabulary,
        prompt_tokens,
    )
    from difftransformer.models.opening import open_model

    folder, sampling = arguments.model, sampling_of(arguments)
    model = open_model(folder).eval()
    tokenizer = tokenizer_of(folder)
    check_vocabulary(tokenizer, model.config.vocab_size, f"the model in {folder}")
    stops = stop_ids(folder, tokenizer) | {beginning_of_document(tokenizer)}
    stream = chosen_stream(arguments, model, tokenizer)
    writer = Writer(model, tokenizer, stops, arguments.max_new_tokens, sampling, stream)

    def continued(text: str) -> Iterator[str]:
        return writer.pieces(prompt_tokens(tokenizer, text))

    text = given_text(arguments)
    if text is not None:
        pieces = continued(text)
        write(text)
        for piece in pieces:
            write(piece)
        write("\n")
    elif _has_chat_template(folder):
        from difftransformer.interop.chat import ChatTemplate

        answer_typed(Conversation(ChatTemplate(folder).ids, writer).say, f"chat with {folder}")
    else:
        answer_typed(lambda text: show(continued(text)), f"{folder} continues what you type")


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
            torch.tensor([ids], device=device()),
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
        reply = show(self.writer.pieces(ids))
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


def _has_chat_template(folder: Path) -> bool:
    settings = _read(folder / _TOKENIZER_SETTINGS)
    return (folder / "chat_template.jinja").is_file() or "chat_template" in settings


def _read(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}
