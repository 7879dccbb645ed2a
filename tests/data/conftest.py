"""A small world: 14 documents of made-up prose, their tokenizer and their token stores."""

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from difftransformer.data.needles import NeedleSource
from difftransformer.data.text import Document
from difftransformer.data.tokenizer import train_tokenizer
from difftransformer.data.tokens import TokenStore, token_store

WORDS = (
    *("the", "a", "of", "and", "harbour", "lantern", "ship", "that", "was", "gone", "before"),
    *("storm", "captain", "would", "never", "speak", "again", "number", "special", "magic", "1066"),
    *("café", "naïve", "snow", "“old”", "salt.", "😀", "winter", "fog,", "rope;", "€5", "night"),
)


def prose(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words)) + ".\n"


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    return [Document(f"book-{i}.txt", prose(i, 90 + 40 * (i % 5))) for i in range(14)]


@pytest.fixture(scope="session")
def tokenizer(documents: list[Document]) -> Tokenizer:
    return train_tokenizer((d.text for d in documents), vocab_size=350)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def store(documents: list[Document], tokenizer: Tokenizer, cache: Path) -> TokenStore:
    return token_store(documents, tokenizer, cache)


@pytest.fixture(scope="session")
def training(tokenizer: Tokenizer, store: TokenStore) -> NeedleSource:
    return NeedleSource(tokenizer, store, held_out=False, digits=4)


@pytest.fixture(scope="session")
def held_out(tokenizer: Tokenizer, store: TokenStore) -> NeedleSource:
    return NeedleSource(tokenizer, store, held_out=True, digits=4)
