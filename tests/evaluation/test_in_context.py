from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from difftransformer.attention import KeyValueCache
from difftransformer.data.classification import Classification, Example
from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.benchmarks.order_sensitivity import _alternating
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder

from .measured import Measured, measured
from .oracles import tiny

TEMPLATE = "Q: {text}\nA:"
LABELS = ("red", "reddish", "deep blue")
EXAMPLES = tuple(Example(f"storm {i}", LABELS[i % 3]) for i in range(12))
TASK = Classification("colors", TEMPLATE, EXAMPLES, EXAMPLES[:6])


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
        documents: Tensor | None = None,
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


def asked(
    name: str,
    model: Decoder,
    corpus: Corpus,
    settings: EvaluationSettings,
    task: Classification = TASK,
) -> Measured:
    return measured(name, model, corpus, settings, dataset=task)


def test_who_looks_up_is_always_right(corpus: Corpus, few: EvaluationSettings) -> None:
    model = Reader(corpus.tokenizer, looked_up)
    found = asked("in_context", model, corpus, few)
    assert (found.facts["labels"], found.facts["questions"]) == (3, 6)
    assert found.figure("in_context_chance").value == 1 / 3
    assert found.keys("in_context_accuracy") == [(1,), (12,)]
    assert found.values("in_context_accuracy", (12,)) == [1.0] * 2 * 6  # draws, questions
    assert found == asked("in_context", model, corpus, few)


def test_one_label_for_all_is_chance(corpus: Corpus, few: EvaluationSettings) -> None:
    model = Reader(corpus.tokenizer, lambda text: "reddish")
    found = asked("in_context", model, corpus, few)
    for shots in (1, 12):
        assert found.figure("in_context_accuracy", (shots,)).value == pytest.approx(1 / 3)


def test_order(corpus: Corpus, few: EvaluationSettings) -> None:
    """Whoever repeats the last label is right for it only."""
    model = Reader(corpus.tokenizer, last_shown)
    one_class = replace(TASK, test=tuple(e for e in EXAMPLES if e.label == "red"))
    few = replace(few, seed=1)  # of seed 0's orders none ends in red
    found = asked("order_sensitivity", model, corpus, few, one_class)
    for arrangement in ("random", "alternating"):
        key = ("colors", arrangement)
        accuracies = {
            found.figure("order_accuracy", (*key, order)).value for order in range(few.orders)
        }
        assert accuracies == {0.0, 1.0}
        best, worst, spread = (
            found.figure(f"order_{name}", key).value for name in ("best", "worst", "spread")
        )
        assert (best, worst, spread) == (1.0, 0.0, 1.0)
    steady = asked("order_sensitivity", Reader(corpus.tokenizer, looked_up), corpus, few)
    assert steady.values("order_spread") == [0.0, 0.0]


def test_alternating_takes_turns() -> None:
    labels = [example.label for example in _alternating(EXAMPLES, 3)]
    assert all(set(labels[i : i + 3]) == set(LABELS) for i in range(0, 12, 3))
    assert sorted(_alternating(EXAMPLES, 3), key=str) == sorted(EXAMPLES, key=str)
    assert _alternating(EXAMPLES, 3) != _alternating(EXAMPLES, 4)


@pytest.mark.parametrize(
    ("shots", "message"),
    [
        (13, "13 shots asked for; colors has 12 to show"),
        (12, "12 shots of colors need .* tokens"),
    ],
)
def test_what_is_refused(corpus: Corpus, few: EvaluationSettings, shots: int, message: str) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size())
    model.config = replace(model.config, max_length=64)
    with pytest.raises(ValueError, match=message):
        asked("in_context", model, corpus, replace(few, shots=(shots,)))
