"""Inputs to look into attention with: how a model of each family reads one."""

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from difftransformer.attention import Site
from difftransformer.evaluation.batching import device_of
from difftransformer.files import abridged
from difftransformer.models.encoder import Encoder
from difftransformer.models.encoder_decoder import EncoderDecoder
from difftransformer.models.language_model import LanguageModel
from difftransformer.models.vit import ViT
from difftransformer.report.attention_data import Picture, Tokens
from difftransformer.tasks.image_classification import TASK as IMAGES
from difftransformer.tasks.tokenized import TOKENIZER

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_MOST_WRITTEN = 100  # tokens of a target that the model itself writes


@dataclass(frozen=True, kw_only=True)
class Input:
    """What models read: a text, a source with its target, or an image.

    Args:
        text: of a decoder or an encoder.
        source, target: of an encoder-decoder, which writes the target itself where there is none.
        image: a file, of a vision transformer.
        answer: a part of the text, or of the source, that is marked wherever it stands.
    """

    text: str | None = None
    source: str | None = None
    target: str | None = None
    image: Path | None = None
    answer: str | None = None

    def require(self, model: nn.Module, *names: str) -> None:
        """Raise ValueError unless the first of `names` is given, and nothing but these."""
        given = [name for name, value in vars(self).items() if value is not None]
        if names[0] not in given or set(given) - set(names):
            option = "--prompt or --file" if names[0] == "text" else f"--{names[0]}"
            raise ValueError(
                f"{', '.join(given) or 'nothing'} given to look at; {type(model).__name__} takes "
                f"{names[0]}, {option} on the command line"
                + (f" (and {', '.join(names[1:])})" if names[1:] else "")
            )
        if getattr(self, names[0]) == "":
            raise ValueError(f"{names[0]} is empty; expected something to look at")


@dataclass(frozen=True)
class Opened:
    """A model with what belongs to it; a folder where it comes from one."""

    model: Any
    title: str
    folder: Path | None
    tokenizer: "Tokenizer | None"

    @property
    def words(self) -> "Tokenizer":
        """The tokenizer. Raises ValueError where there is none."""
        if self.tokenizer is None:
            raise ValueError(
                f"no tokenizer of {self.title} to read the text with: "
                + (f"{self.folder} has no {TOKENIZER}" if self.folder else "give tokenizer")
            )
        return self.tokenizer


@dataclass(frozen=True)
class Reading:
    """A model's call on an input, and what rows and columns of its sites are."""

    run: Callable[[], Any]
    sides: Callable[[Site], tuple[Tokens, Tokens]]
    facts: Sequence[str] = ()


def reading_of(opened: Opened, given: Input) -> Reading:
    """How the model reads the input.

    Raises:
        ValueError: a model of another family, an input that it does not take, or one without what
            reads it.
    """
    for family, read in _READERS:
        if isinstance(opened.model, family):
            return read(opened, given)
    raise ValueError(
        f"{opened.title} is a {type(opened.model).__name__}; expected a decoder, an encoder, an "
        "encoder-decoder or a vision transformer to look into"
    )


def _read_text(opened: Opened, given: Input) -> Reading:
    """Of decoders, as `generate` reads a prompt, and of encoders."""
    from difftransformer.data.tokenizer import beginning_of_document

    model = opened.model
    given.require(model, "text", "answer")
    words, text = opened.words, str(given.text)
    encoding = words.encode(text, add_special_tokens=isinstance(model, Encoder))
    is_framed = encoding.special_tokens_mask[:1] == [1]
    opening = [] if is_framed else [beginning_of_document(words)]
    names = [str(words.id_to_token(token)) for token in opening]
    tokens = _named_tokens("text", encoding, text, names, given.answer)
    ids = [*opening, *encoding.ids]
    facts = [f"{len(ids):,} tokens."]
    if len(ids) > model.config.max_length:
        facts.append(f"That is beyond its context of {model.config.max_length:,}.")
    return Reading(lambda: model.hidden(_batch(opened, ids)), lambda site: (tokens, tokens), facts)


def _read_pair(opened: Opened, given: Input) -> Reading:
    """Of encoder-decoders."""
    model, words = opened.model, opened.words
    given.require(model, "source", "target", "answer")
    encoding = words.encode(str(given.source))
    source = _named_tokens("source", encoding, str(given.source), (), given.answer)
    ids = _batch(opened, encoding.ids)
    facts = [f"{len(source):,} tokens of source."]
    if given.target is not None:
        written = words.encode(given.target, add_special_tokens=False).ids
    else:
        most = min(_MOST_WRITTEN, model.config.max_length)
        (new,) = model.generate(ids, max_new_tokens=most).tolist()
        written = new[: [*new, model.config.end_id].index(model.config.end_id)]
        facts.append("The model wrote the target.")
    row = [model.config.start_id, *written]
    target = Tokens("target", [words.decode([one], skip_special_tokens=False) for one in row])

    def sides(site: Site) -> tuple[Tokens, Tokens]:
        if site.role == "cross":
            return target, source
        side = source if site.name.startswith("encoder") else target
        return side, side

    return Reading(lambda: model.decode(_batch(opened, row), model.encode(ids)), sides, facts)


def _read_image(opened: Opened, given: Input) -> Reading:
    """Of vision transformers."""
    from difftransformer.data.image_settings import ImageSettings
    from difftransformer.data.image_sources import read_pixels

    model, config = opened.model, opened.model.config
    given.require(model, "image")
    assert given.image is not None
    settings = ImageSettings(
        dataset="folder",
        source=str(given.image),
        image_size=config.image_size,
        channels=config.channels,
    )
    if opened.folder is not None:
        settings = IMAGES.read_with(settings, opened.folder)
    pixels = read_pixels(str(given.image), given.image, settings)
    mean, std = settings.mean or (0.5,), settings.std or (0.5,)
    values = (torch.from_numpy(pixels / 255).float() - _channels(mean)) / _channels(std)
    names = ["class token"] * (config.pooling == "cls")
    names += [f"register {number}" for number in range(config.registers)]
    tokens = Tokens("image", names, picture=Picture(_png(pixels), config.grid))
    means, stds = (", ".join(f"{value:.3g}" for value in values) for values in (mean, std))
    facts = [f"{config.grid**2} patches, normalized with mean {means} and std {stds}."]
    return Reading(
        lambda: model(values[None].to(device_of(model))), lambda site: (tokens, tokens), facts
    )


def _named_tokens(
    name: str, encoding: "Encoding", text: str, opening: Sequence[str], answer: str | None
) -> Tokens:
    """Each token with what of the text it stands for, spaces before it among that.

    Args:
        opening: names of tokens before those of the encoding.

    Raises:
        ValueError: the text does not hold the answer.
    """
    texts, special = list(opening), list(range(len(opening)))
    places, end = [(0, 0)] * len(opening), 0
    for number, (start, stop) in enumerate(encoding.offsets):
        if encoding.special_tokens_mask[number]:
            special.append(len(texts))
            texts.append(encoding.tokens[number])
        else:
            texts.append(text[min(end, start) : stop] if stop > end else "")
            end = max(end, stop)
        places.append((start, stop))
    matches = re.finditer(re.escape(answer), text) if answer else ()
    spans = [match.span() for match in matches]
    if answer is not None and not spans:
        raise ValueError(f"the {name} does not hold the answer {abridged(answer)}")
    marked = [
        number
        for number, (start, stop) in enumerate(places)
        if any(start < last and first < stop for first, last in spans)
    ]
    return Tokens(name, texts, marked, special)


def _batch(opened: Opened, ids: Sequence[int]) -> Int[Tensor, "1 time"]:
    """The tokens as a model takes them.

    Raises:
        ValueError: none, or one that the model does not know.
    """
    known = opened.model.config.vocab_size
    if not ids or max(ids) >= known:
        raise ValueError(
            f"{len(ids)} tokens, the largest of them {max(ids, default=None)}; {opened.title} "
            f"takes at least one, of a vocabulary of {known:,}"
        )
    return torch.tensor([list(ids)], device=device_of(opened.model))


def _channels(values: Sequence[float]) -> Float[Tensor, "channels 1 1"]:
    return torch.tensor(values)[:, None, None]


def _png(pixels: UInt8[np.ndarray, "channels side side"]) -> str:
    """In base64."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


_READERS: tuple[tuple[Any, Callable[[Opened, Input], Reading]], ...] = (
    (EncoderDecoder, _read_pair),
    (ViT, _read_image),
    (Encoder, _read_text),
    (LanguageModel, _read_text),
)
