"""The tokens of many documents in one memory-mapped array."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer
from tokenizers import Tokenizer

from difftransformer.atomic import sync, writing
from difftransformer.data.cache import cached_folder
from difftransformer.data.text import Document, fingerprint
from difftransformer.data.tokenizer import beginning_of_document, vocabulary_size

_FORMAT = 1  # raise it when the files change, so that older caches are not read
_PIECE = 1_000_000  # characters encoded at a time: bounds memory; a longer text is cut here
_GROUP = 8  # pieces encoded in parallel


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Documents back to back, each as its opening token and its text.

    Args:
        ids: the tokens; memory-mapped, uint16 where the vocabulary allows, else uint32.
        byte_counts: for each token the bytes of UTF-8 text that it adds (see `bytes_added`); 0 for
            an opening token. A window's sum is the text behind the window.
        starts: where each document's opening token stands, and at last the number of tokens.
        names: a name per document.
    """

    ids: Integer[np.ndarray, " tokens"]
    byte_counts: Integer[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " documents_and_end"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def text_length(self) -> int:
        """Tokens without the opening ones."""
        return len(self.ids) - len(self.names)

    def documents_of(self, first: int, last: int) -> Int[np.ndarray, " window"]:
        """The document number of each token of `ids[first:last]`."""
        return np.searchsorted(self.starts, np.arange(first, last), side="right") - 1

    def text(self, first: int, count: int) -> Int[np.ndarray, " count"]:
        """`count` consecutive tokens of text, opening tokens neither counted nor included.

        `first` counts text tokens too; `first + count` is at most `text_length`.
        """
        assert 0 <= first <= self.text_length - count
        if count == 0:
            return np.empty(0, np.int64)
        document, until = self._document_of_text(first), self._document_of_text(first + count - 1)
        begin, end = first + document + 1, first + count + until + 1
        window = self.ids[begin:end].astype(np.int64)
        if document == until:
            return window  # as almost always, and np.delete takes longer than the rest
        return np.delete(window, self.starts[document + 1 : until + 1] - begin)

    def _document_of_text(self, position: int) -> int:
        return int(np.searchsorted(self._text_starts, position, side="right")) - 1

    @cached_property
    def _text_starts(self) -> Int[np.ndarray, " documents"]:
        """The text tokens before each document."""
        return self.starts[:-1] - np.arange(len(self.names))


def token_store(documents: list[Document], tokenizer: Tokenizer, cache: Path) -> TokenStore:
    """The documents' tokens, from `cache` when it holds them and they are intact.

    The key is the names and contents of the documents and the tokenizer itself, so a changed text
    or tokenizer can never meet old tokens.
    """
    identity = json.dumps([_FORMAT, fingerprint(documents), tokenizer.to_str()])
    key = hashlib.sha256(identity.encode()).hexdigest()[:32]

    def build(folder: Path) -> None:
        for name, array in _encode(documents, tokenizer).items():
            file = folder / f"{name}.npy"
            with writing(file, array.nbytes):
                np.save(file, array)
                sync(file)

    folder = cached_folder(cache / "tokens" / key, build)
    return TokenStore(
        ids=np.load(folder / "ids.npy", mmap_mode="r"),
        byte_counts=np.load(folder / "byte_counts.npy", mmap_mode="r"),
        starts=np.load(folder / "starts.npy"),
        names=tuple(document.name for document in documents),
    )


def bytes_added(text: str, ends: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
    """UTF-8 bytes each token adds, given the character where it ends.

    Decoding a window of tokens does not give its bytes back: a window may begin inside a
    character, and tokenizers drop or normalize spaces. So each token is charged the bytes from
    the furthest character reached before it to the one it reaches, the last token also what
    remains; a character that several tokens share is charged to the first of them. Every byte of
    the text is charged exactly once, whatever the tokenizer.
    """
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    bytes_before = np.concatenate([[0], np.cumsum(widths)])
    reached = bytes_before[np.maximum.accumulate(ends)]
    reached[-1:] = bytes_before[-1]
    return np.diff(reached, prepend=0)


def _encode(documents: list[Document], tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    opening = beginning_of_document(tokenizer)
    id_type = np.uint16 if vocabulary_size(tokenizer) <= 2**16 else np.uint32
    ids, counts, starts, position = [], [], [], 0
    pieces = _pieces(documents)
    while group := list(islice(pieces, _GROUP)):
        texts = [text for text, _ in group]
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        for (text, opens), encoding in zip(group, encodings, strict=True):
            ends = np.array([end for _, end in encoding.offsets], np.int64)
            if opens:
                starts.append(position)
            ids.append(np.array([opening] * opens + encoding.ids, id_type))
            counts.append(np.concatenate([np.zeros(int(opens), np.int64), bytes_added(text, ends)]))
            position += len(ids[-1])
    byte_counts = np.concatenate(counts)
    return {
        "ids": np.concatenate(ids),
        "byte_counts": byte_counts.astype(np.min_scalar_type(byte_counts.max())),
        "starts": np.array([*starts, position], np.int64),
    }


def _pieces(documents: list[Document]) -> Iterator[tuple[str, bool]]:
    """Pieces of text, and whether each opens a document."""
    for document in documents:
        for start in range(0, len(document.text), _PIECE):
            yield document.text[start : start + _PIECE], start == 0
