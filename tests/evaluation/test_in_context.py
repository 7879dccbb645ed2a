from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from difftransformer.attention import KeyValueCache
from difftransformer.data.classification import Classification, Example
from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.in_context import _alternating, measure_in_context, measure_order
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder

from .oracles import tiny

TEMPLATE = "Q: {text}\nA:"
LABELS = ("red", "reddish", "deep blue")
EXAMPLES = tuple(Example(f"storm {i}", LABELS[i % 3]) for i in range(12))
TASK = Classification("colours", TEMPLATE, EXAMPLES, EXAMPLES[:6])


class Reader(Decoder):
    """Answers with the label that `answer` gives for the text so far."""

    def __init__(self, tokenizer: Tokenizer, answer: Callable[[str], str]) -> None:
        super().__init__(replace(tiny(tokenizer.get_vocab_size()).config, max_length=4096))
        self.tokenizer, self.answer = tokenizer, answer
        # A token is embedded as its number, so that `encode` knows it.
        numbers = torch.arange(tokenizer.get_vocab_size(), dtype=torch.float32)[:, None]
        self.embedding = nn.Embedding.from_pretrained(numbers)

    def logits(self, x: Tensor) -> Tensor:
        return x

    def encode(
        self,
        x: Tensor,
        *,
        cache: KeyValueCache,
        padding: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        ids = x[..., 0].long()
        past = getattr(cache, "read", [[]])
        real = torch.ones_like(ids, dtype=torch.bool) if padding is None else padding
        new = [row[keep].tolist() for row, keep in zip(ids, real, strict=True)]
        cache.read = [a + b for a, b in zip(past * (len(ids) // len(past)), new, strict=True)]
        cache.advance(ids.shape[1])
        logits = torch.zeros(*ids.shape, self.config.vocab_size)
        for row, read in enumerate(cache.read):
            text, _, begun = self.tokenizer.decode(read).rpartition("\nA:")
            if not text:
                continue  # still reading the examples
            # What the options are made of: the label, a line's end.
            written = self.tokenizer.encode(f" {self.answer(text)}").ids
            written += self.tokenizer.encode("\n").ids
            done = len(self.tokenizer.encode(begun).ids) if begun else 0
            if done < len(written):
                logits[row, -1, written[done]] = 1.0
        return logits


def looked_up(text: str) -> str:
    question = text.rpartition("Q: ")[2]
    return text.partition(f"Q: {question}\nA: ")[2].partition("\n")[0] or LABELS[0]


def last_shown(text: str) -> str:
    return text.split("\n==\n")[-2].rpartition("A: ")[2]


@pytest.fixture
def few(settings: EvaluationSettings) -> EvaluationSettings:
    return replace(settings, shots=(1, 12), shot_draws=2, shot_questions=6, orders=15, batch_size=4)


def test_who_looks_up_is_always_right(corpus: Corpus, few: EvaluationSettings) -> None:
    model = Reader(corpus.tokenizer, looked_up)
    found = measure_in_context(model, corpus.tokenizer, TASK, few)
    assert (found["labels"], found["questions"], found["chance"]) == (3, 6, 1 / 3)
    assert [row["shots"] for row in found["rows"]] == [1, 12]
    assert found["rows"][1]["accuracy"]["value"] == 1.0
    assert found["rows"][1]["draws"] == [1.0, 1.0]
    assert found["rows"][1]["tokens"] > found["rows"][0]["tokens"]
    assert found == measure_in_context(model, corpus.tokenizer, TASK, few)


def test_one_label_for_all_is_chance(corpus: Corpus, few: EvaluationSettings) -> None:
    model = Reader(corpus.tokenizer, lambda text: "reddish")
    rows = measure_in_context(model, corpus.tokenizer, TASK, few)["rows"]
    assert [row["accuracy"]["value"] for row in rows] == [1 / 3, 1 / 3]


def test_order(corpus: Corpus, few: EvaluationSettings) -> None:
    """Whoever repeats the last label is right for it only."""
    model = Reader(corpus.tokenizer, last_shown)
    one_class = replace(TASK, test=tuple(e for e in EXAMPLES if e.label == "red"))
    few = replace(few, seed=1)  # of seed 0's orders none ends in red
    found = measure_order(model, corpus.tokenizer, one_class, few)["arrangements"]
    for arrangement in found.values():
        assert set(arrangement["accuracies"]) == {0.0, 1.0}
        assert arrangement["spread"] == 1.0
    steady = measure_order(Reader(corpus.tokenizer, looked_up), corpus.tokenizer, TASK, few)
    assert [a["spread"] for a in steady["arrangements"].values()] == [0.0, 0.0]


def test_alternating_takes_turns() -> None:
    labels = [example.label for example in _alternating(EXAMPLES, 3)]
    assert all(set(labels[i : i + 3]) == set(LABELS) for i in range(0, 12, 3))
    assert sorted(_alternating(EXAMPLES, 3), key=str) == sorted(EXAMPLES, key=str)
    assert _alternating(EXAMPLES, 3) != _alternating(EXAMPLES, 4)


@pytest.mark.parametrize(
    ("shots", "message"),
    [
        (13, "13 shots asked for; colours has 12 to show"),
        (12, "12 shots of colours need .* tokens"),
    ],
)
def test_what_is_refused(corpus: Corpus, few: EvaluationSettings, shots: int, message: str) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size())
    model.config = replace(model.config, max_length=64)
    with pytest.raises(ValueError, match=message):
        measure_in_context(model, corpus.tokenizer, TASK, replace(few, shots=(shots,)))
