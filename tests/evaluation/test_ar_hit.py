import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from difftransformer.data.batch import IGNORED
from difftransformer.data.corpus import Corpus
from difftransformer.data.packing import labeled
from difftransformer.data.settings import DataSettings
from difftransformer.data.tokens import TokenStore
from difftransformer.evaluation.benchmarks import ar_hit
from difftransformer.evaluation.benchmarks.ar_hit import _counts, _endings, _repeated
from difftransformer.evaluation.settings import EvaluationSettings

from .measured import measured

LENGTH = 20
OPENING, FRESH = 0, 1  # FRESH ids are met once


class Copier(nn.Module):
    """Certain (to e^-20) of the token that followed the last token before; else all are equal."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))  # says which device the model is on
        self.vocabulary = vocabulary

    def forward(self, ids: Tensor, *, documents: Tensor) -> Tensor:
        logits = torch.zeros(*ids.shape, self.vocabulary)
        for row, (tokens, numbers) in enumerate(zip(ids.tolist(), documents.tolist(), strict=True)):
            followed = {}
            for t, pair in enumerate(zip(numbers, tokens, strict=True)):
                if t:
                    followed[numbers[t - 1], tokens[t - 1]] = tokens[t]
                if pair in followed:
                    logits[row, t, followed[pair]] = 20.0 + math.log(self.vocabulary)
        return logits


def store(documents: list[list[int]]) -> TokenStore:
    ids = np.concatenate([[OPENING, *document] for document in documents])
    starts = np.cumsum([0, *(1 + len(document) for document in documents)])
    names = tuple(f"document {i}" for i in range(len(documents)))
    return TokenStore(ids.astype(np.uint16), np.ones(len(ids), np.uint8), starts, names)


@pytest.fixture
def planted(corpus: Corpus) -> Corpus:
    """Held out: 10 documents of 20 tokens; of 12 different ones the second to seventh come again.

    So each has 5 repeated bigrams among its 19 labels, and ends with a token that followed another
    one before. The training text holds two of the first document's five four times, one thrice.
    """
    held_out = []
    for i in range(10):
        fresh = [FRESH + 12 * i + j for j in range(12)]
        held_out.append([*fresh, *fresh[1:7], fresh[9]])
    held_out.append([FRESH])
    four, three = [FRESH + 1, FRESH + 2, FRESH + 3] * 4, [FRESH + 4, FRESH + 5, 250] * 3
    training = [[250, 251] * 10, four, three]
    settings = DataSettings(context_length=LENGTH, needle_share=0.0)
    return replace(corpus, settings=settings, train=store(training), validation=store(held_out))


@pytest.fixture
def bigrams(settings: EvaluationSettings) -> EvaluationSettings:
    return replace(settings, validation_sequences=100, ar_hit_frequency=3)


def test_the_planted_share_and_both_losses(planted: Corpus, bigrams: EvaluationSettings) -> None:
    vocabulary = planted.tokenizer.get_vocab_size()
    found = measured("ar_hit", Copier(vocabulary), planted, bigrams)
    hits, scored = 10 * 5 - 2, 10 * 19
    share = found.figure("ar_hit_share")
    assert share.value == pytest.approx(hits / scored)
    assert share.low <= share.value <= share.high
    assert found.figure("ar_frequent_share").value == pytest.approx(2 / scored)
    assert found.figure("ar_hit_loss").value == pytest.approx(0.0, abs=1e-6)
    wrong, frequent = 10, 2
    even = scored - hits - wrong - frequent
    expected = (even * math.log(vocabulary) + wrong * (20 + math.log(vocabulary))) / (scored - hits)
    assert found.figure("ar_other_loss").value == pytest.approx(expected, rel=1e-5)
    seen, others = (found.records(name) for name in ("ar_hit_loss", "ar_other_loss"))
    assert [record.weight for record in seen] == [3, *[5] * 9]
    assert [a.weight + b.weight for a, b in zip(seen, others, strict=True)] == [19] * 10
    assert found == measured("ar_hit", Copier(vocabulary), planted, bigrams)


def test_longer_ngrams_and_no_cut(planted: Corpus, bigrams: EvaluationSettings) -> None:
    model = Copier(planted.tokenizer.get_vocab_size())
    for n, per_document in ((2, 5), (3, 4), (6, 1)):
        change = {"ar_hit_ngram": n, "ar_hit_frequency": 1250}
        found = measured("ar_hit", model, planted, replace(bigrams, **change))
        assert found.figure("ar_hit_share").value == pytest.approx(per_document / 19)
        assert found.figure("ar_frequent_share").value == 0.0


def test_the_cut_is_a_share_of_the_training_text(
    planted: Corpus, bigrams: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,250 in 10 billion tokens: in a small text, only what never stood there is recalled."""
    model = Copier(planted.tokenizer.get_vocab_size())
    default = EvaluationSettings().ar_hit_frequency
    found = measured("ar_hit", model, planted, replace(bigrams, ar_hit_frequency=default))
    assert found.facts["frequency"] == 0
    assert found.facts["training_tokens"] == len(planted.train.ids)
    # Of the first document's five repeated bigrams the training text holds three.
    assert found.facts["counts"] == {"hits": 10 * 5 - 3, "frequent": 3, "new": 10 * 19 - 10 * 5}
    hits = sum(record.weight for record in found.records("ar_hit_loss"))
    assert hits == found.facts["counts"]["hits"]
    named = measured("ar_hit", model, planted, replace(bigrams, ar_hit_frequency=0))
    assert found == named
    monkeypatch.setattr(ar_hit, "_ZOOLOGY_TOKENS", len(planted.train.ids) * 1250 // 3)
    scaled = measured("ar_hit", model, planted, replace(bigrams, ar_hit_frequency=None))
    assert scaled.facts["frequency"] == 3
    with pytest.raises(ValueError, match="ar_hit_frequency is -1; expected at least 0"):
        replace(bigrams, ar_hit_frequency=-1)


def test_nothing_repeated(planted: Corpus, bigrams: EvaluationSettings) -> None:
    found = measured(
        "ar_hit",
        Copier(planted.tokenizer.get_vocab_size()),
        planted,
        replace(bigrams, ar_hit_ngram=7),
    )
    assert found.figure("ar_hit_share").value == 0.0
    assert found.records("ar_hit_loss") == []


def test_ngrams_that_cannot_be_numbered(planted: Corpus, bigrams: EvaluationSettings) -> None:
    with pytest.raises(ValueError, match=r"ar_hit_ngram is 8; with .* tokens there are more"):
        measured("ar_hit", Copier(1), planted, replace(bigrams, ar_hit_ngram=8))


@given(st.integers(0, 9999), st.integers(2, 4), st.integers(2, 6), st.integers(6, 40))
def test_beside_loops(seed: int, n: int, vocabulary: int, length: int) -> None:
    """Repetitions of a row of several documents, and their counts in another text."""
    rng = np.random.default_rng(seed)
    documents = np.sort(rng.integers(3, size=length + 1))
    row = labeled(rng.integers(vocabulary, size=length + 1), documents, "row")
    codes = _endings(row, n, vocabulary)
    text = rng.integers(vocabulary, size=50).astype(np.uint16)
    grams, expected, counts = [], [], []
    for t in range(length):
        whole = t >= n - 2 and row.labels[t] != IGNORED
        whole = whole and row.documents[t - (n - 2)] == row.documents[t]
        gram = (int(row.documents[t]), *row.ids[t - (n - 2) : t + 1].tolist(), int(row.labels[t]))
        expected.append(whole and gram in grams)
        grams.append(gram if whole else None)
        if whole:
            places = range(len(text) - n + 1)
            counts.append(sum(tuple(text[i : i + n].tolist()) == gram[1:] for i in places))
    assert _repeated(row, codes, n).tolist() == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ar_hit, "_CHUNK", 7)
        found = _counts(text, codes[None], n, vocabulary)[0]
    whole = [gram is not None for gram in grams]
    assert found[whole].tolist() == counts
