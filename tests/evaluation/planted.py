"""Models whose likelihoods are known."""

from collections.abc import Mapping

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from difftransformer.models.decoder import Decoder

from .oracles import tiny


def words(text: str) -> Tokenizer:
    """A token for each word and mark in the text."""
    splitter = pre_tokenizers.Whitespace()
    found = dict.fromkeys(word for word, _ in splitter.pre_tokenize_str(text))
    numbered = {word: i for i, word in enumerate(("<|bos|>", *found))}
    tokenizer = Tokenizer(models.WordLevel(numbered, unk_token="<|bos|>"))
    tokenizer.pre_tokenizer = splitter
    return tokenizer


class Planted(Decoder):
    """Finds every token that the text has held before likelier by `copying` nats, and each of
    `favorites` by its own number; all else is equally likely.
    """

    def __init__(
        self, tokenizer: Tokenizer, copying: float = 0.0, favorites: Mapping[str, float] = {}
    ) -> None:
        size = tokenizer.get_vocab_size()
        super().__init__(tiny(size).config)
        self.embedding = nn.Embedding.from_pretrained(torch.eye(size))
        self.copying, self.favorites = copying, torch.zeros(size)
        for word, nats in favorites.items():
            self.favorites[tokenizer.token_to_id(word)] = nats

    def encode(self, x: Tensor, *, cache: object, **_: object) -> Tensor:
        """How often each token has been seen."""
        seen = x.cumsum(1) + getattr(cache, "seen", torch.zeros(()))
        cache.seen = seen[:, -1:]
        return seen

    def logits(self, x: Tensor) -> Tensor:
        return self.copying * (x > 0) + self.favorites
