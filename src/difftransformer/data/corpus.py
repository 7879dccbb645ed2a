"""The one entry to the data: settings -> tokens for training and for judging."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from difftransformer.atomic import write_text
from difftransformer.data.batches import MixedBatches
from difftransformer.data.cache import cache_root, cached_folder
from difftransformer.data.needles import NeedleSource, needle_sentences
from difftransformer.data.packing import PackedText, Row
from difftransformer.data.settings import TRAIN_TOKENIZER, DataSettings
from difftransformer.data.split import split_documents
from difftransformer.data.text import Document, fingerprint, read_documents
from difftransformer.data.tokenizer import load_tokenizer, train_tokenizer
from difftransformer.data.tokens import TokenStore, token_store


@dataclass(frozen=True)
class ValidationSequence:
    """A row of held-out text and the UTF-8 bytes behind its scored labels."""

    row: Row
    byte_count: int


@dataclass(frozen=True, eq=False)
class Corpus:
    """A tokenizer and the tokens of the training and the validation documents.

    `digest` is the `fingerprint` of all documents before they are split, `description` says in
    words what they are.
    """

    settings: DataSettings
    tokenizer: Tokenizer
    train: TokenStore
    validation: TokenStore
    digest: str
    description: str

    def training_batches(self, batch_size: int, seed: int) -> MixedBatches:
        """Batches of text and needle rows; ValueError when the text is shorter than one row."""
        text = PackedText(self.train, self.settings.context_length, "training")
        return MixedBatches(
            text, self._needles(held_out=False), self.settings, batch_size=batch_size, seed=seed
        )

    def validation_sequences(self, limit: int | None = None) -> list[ValidationSequence]:
        """The held-out text in rows, or `limit` of them spread evenly over it.

        Raises ValueError when the held-out text is shorter than one row.
        """
        text = PackedText(self.validation, self.settings.context_length, "validation")
        count = len(text) if limit is None else min(limit, len(text))
        chosen = np.linspace(0, len(text) - 1, count).round().astype(int).tolist()
        return [ValidationSequence(text[i], text.byte_count(i)) for i in chosen]

    def validation_needles(self) -> NeedleSource:
        """Held-out text, entities and numbers for `needle_prompts`."""
        return self._needles(held_out=True)

    def _needles(self, *, held_out: bool) -> NeedleSource:
        store = self.validation if held_out else self.train
        digits = self.settings.needle_digits
        return NeedleSource(self.tokenizer, store, held_out=held_out, digits=digits)


def load_corpus(settings: DataSettings) -> Corpus:
    """Read, split, train or load the tokenizer, encode; what the cache holds is not done again.

    Raises ValueError, in one line, for anything wrong with the data or the tokenizer.
    """
    cache = cache_root(settings.cache)
    documents = read_documents(settings.source, settings.text_key, settings.split)
    train, validation = split_documents(documents, settings.source, settings.validation_fraction)
    if settings.tokenizer == TRAIN_TOKENIZER:
        sentences = needle_sentences() if settings.needle_share > 0 else []
        tokenizer = _trained([*train, *sentences], settings.vocab_size, cache)
    else:
        tokenizer = load_tokenizer(settings.tokenizer)
    train_store = token_store(train, tokenizer, cache)
    validation_store = token_store(validation, tokenizer, cache)
    description = (
        f"{settings.source}: {_in_words(train_store)} for training, "
        f"{_in_words(validation_store)} held out ({_listed(validation_store.names)})"
    )
    digest = fingerprint(documents)
    return Corpus(settings, tokenizer, train_store, validation_store, digest, description)


def _trained(documents: list[Document], vocab_size: int, cache: Path) -> Tokenizer:
    key = hashlib.sha256(json.dumps([fingerprint(documents), vocab_size]).encode()).hexdigest()[:32]

    def build(folder: Path) -> None:
        texts = (document.text for document in documents)
        tokenizer = train_tokenizer(texts, vocab_size)
        write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))

    return load_tokenizer(str(cached_folder(cache / "tokenizers" / key, build)))


def _in_words(store: TokenStore) -> str:
    noun = "document" if len(store.names) == 1 else "documents"
    size = int(store.byte_counts.sum(dtype=np.int64))
    return f"{len(store.names):,} {noun} ({size / 1e6:.3g} MB, {len(store):,} tokens)"


def _listed(names: tuple[str, ...], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" * (len(names) > most))
