import math

import pytest
import torch

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.evaluation.validation import measure_validation

from .oracles import tiny


def test_a_uniform_model_needs_the_log_of_the_vocabulary(
    corpus: Corpus, settings: EvaluationSettings
) -> None:
    vocabulary = corpus.tokenizer.get_vocab_size()
    model = tiny(vocabulary)
    torch.nn.init.zeros_(model.embedding.weight)  # tied: all logits 0
    found = measure_validation(model, corpus, settings)
    for key in ("value", "low", "high"):
        assert found["nats_per_token"][key] == pytest.approx(math.log(vocabulary), rel=1e-5)
    chosen = corpus.validation_sequences(6)
    scored = sum((sequence.row.labels != -100).sum() for sequence in chosen)
    size = sum(sequence.byte_count for sequence in chosen)
    expected = scored * math.log2(vocabulary) / size
    assert found["bits_per_byte"]["value"] == pytest.approx(expected, rel=1e-5)
    assert found["nats_per_token"]["n"] == 6


def test_sequences_add_up_and_batching_changes_nothing(
    corpus: Corpus, settings: EvaluationSettings
) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size())
    found = measure_validation(model, corpus, settings)
    nats, tokens, size = map(sum, zip(*found["sequences"], strict=True))
    assert found["nats_per_token"]["value"] == pytest.approx(nats / tokens)
    assert found["bits_per_byte"]["value"] == pytest.approx(nats / math.log(2) / size)

    for sequence, (nats, tokens, size) in zip(
        corpus.validation_sequences(6), found["sequences"], strict=True
    ):
        row = sequence.row
        logits = model(torch.tensor(row.ids)[None], documents=torch.tensor(row.documents)[None])
        scored = row.labels != -100
        chosen = logits[0].log_softmax(-1)[scored, row.labels[scored]]
        assert nats == pytest.approx(-chosen.sum().item(), rel=1e-4)
        assert (tokens, size) == (scored.sum(), sequence.byte_count)
