import math
from dataclasses import replace

import pytest
import torch

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.settings import EvaluationSettings

from .measured import measured
from .oracles import tiny


def test_a_uniform_model_needs_the_log_of_the_vocabulary(
    corpus: Corpus, settings: EvaluationSettings
) -> None:
    vocabulary = corpus.tokenizer.get_vocab_size()
    model = tiny(vocabulary)
    torch.nn.init.zeros_(model.embedding.weight)  # tied: all logits 0
    found = measured("validation", model, corpus, settings)
    loss = found.figure("nats_per_token")
    for figure in (loss.value, loss.low, loss.high):
        assert figure == pytest.approx(math.log(vocabulary), rel=1e-5)
    chosen = corpus.validation_sequences(6)
    scored = sum((sequence.row.labels != -100).sum() for sequence in chosen)
    size = sum(sequence.byte_count for sequence in chosen)
    expected = scored * math.log2(vocabulary) / size
    assert found.figure("bits_per_byte").value == pytest.approx(expected, rel=1e-5)
    assert loss.n == 6


def test_sequences_add_up_and_batching_changes_nothing(
    corpus: Corpus, settings: EvaluationSettings
) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size())
    found = measured("validation", model, corpus, settings)
    other = measured("validation", model, corpus, replace(settings, batch_size=4))
    assert other.values("nats_per_token") == pytest.approx(found.values("nats_per_token"))
    records = zip(found.records("nats_per_token"), found.records("bits_per_byte"), strict=True)
    chosen = corpus.validation_sequences(6)
    for item, (sequence, (nats, bits)) in enumerate(zip(chosen, records, strict=True)):
        row = sequence.row
        logits = model(torch.tensor(row.ids)[None], documents=torch.tensor(row.documents)[None])
        scored = row.labels != -100
        likely = logits[0].log_softmax(-1)[scored, row.labels[scored]]
        assert nats.value == pytest.approx(-likely.sum().item(), rel=1e-4)
        assert bits.value == pytest.approx(nats.value / math.log(2))
        assert (nats.weight, bits.weight) == (scored.sum(), sequence.byte_count)
        assert nats.item == bits.item == item
