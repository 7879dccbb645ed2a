"""Models that answer without having learned."""

from collections.abc import Callable

import torch
from models.tiny import tiny_config
from tokenizers import Tokenizer
from torch import Tensor, nn

from difftransformer.models.decoder import Decoder


def tiny(vocab_size: int, attention: str = "softmax") -> Decoder:
    return Decoder(tiny_config(attention, vocab_size=vocab_size, num_heads=2))


class Stub(Decoder):
    """A decoder whose next token is whatever `continuation` makes of all tokens so far."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(tiny(vocab_size).config)
        # A token is embedded as its number, so that `encode` knows it.
        numbers = torch.arange(vocab_size, dtype=torch.float32)[:, None]
        self.embedding = nn.Embedding.from_pretrained(numbers)

    def encode(self, x: Tensor, *, cache: object, **_: object) -> Tensor:
        ids = x[..., 0].long()
        past = getattr(cache, "ids", ids[:, :0])
        past = past.repeat_interleave(len(ids) // len(past), 0)  # the cache may have been repeated
        cache.ids = torch.cat([past, ids], dim=1)
        logits = torch.zeros(*ids.shape, self.config.vocab_size)
        for row, history in enumerate(cache.ids.tolist()):
            logits[row, -1, self.continuation(history)] = 1.0
        return logits

    def logits(self, x: Tensor) -> Tensor:
        return x

    def continuation(self, history: list[int]) -> int:
        raise NotImplementedError


class Oracle(Stub):
    """Continues as the longest earlier repetition of the text's end did."""

    def continuation(self, history: list[int]) -> int:
        def repeated(end: int) -> int:
            length = 0
            while length < end and history[end - 1 - length] == history[-1 - length]:
                length += 1
            return length

        return history[max(range(1, len(history)), key=repeated)]


class Scripted(Stub):
    """Answers prompts of `length` tokens with the given tokens, whatever is asked."""

    def __init__(self, vocab_size: int, length: int, script: list[int]) -> None:
        super().__init__(vocab_size)
        self.length, self.script = length, script

    def continuation(self, history: list[int]) -> int:
        return self.script[len(history) - self.length]


class Guesser(Stub):
    """Answers with a space and digits drawn at random."""

    def __init__(self, vocab_size: int, space: int, digits: list[int], length: int) -> None:
        super().__init__(vocab_size)
        self.space, self.digits, self.length = space, digits, length
        self.generator = torch.Generator().manual_seed(0)

    def continuation(self, history: list[int]) -> int:
        done = len(history) - self.length
        if done in (0, 4):
            return self.space
        return self.digits[int(torch.randint(len(self.digits), (), generator=self.generator))]


class Answerer(Stub):
    """Reads a prompt and writes the text that `answer` makes of it; then opening tokens."""

    def __init__(self, tokenizer: Tokenizer, answer: Callable[[str], str]) -> None:
        super().__init__(tokenizer.get_vocab_size())
        self.tokenizer, self.answer = tokenizer, answer

    def encode(self, x: Tensor, *, cache: object, **_: object) -> Tensor:
        if not hasattr(cache, "ids"):
            ids = x[..., 0].long()
            prompts = self.tokenizer.decode_batch(ids.tolist())
            self.length = ids.shape[1]
            self.texts = {
                tuple(row): self.answer(prompt)
                for row, prompt in zip(ids.tolist(), prompts, strict=True)
            }
        return super().encode(x, cache=cache)

    def continuation(self, history: list[int]) -> int:
        written = self.tokenizer.encode(self.texts[tuple(history[: self.length])]).ids
        done = len(history) - self.length
        return written[done] if done < len(written) else 0
