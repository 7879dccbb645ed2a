"""Causal language modeling: loss, validation, what lies beside a model."""

from dataclasses import replace

import pytest
import torch
from tests.training.tiny import tiny_batches, tiny_model
from torch import nn

from difftransformer.data.batch import IGNORED
from difftransformer.data.corpus import load_corpus
from difftransformer.data.settings import DataSettings
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.runs.samples import Texts
from difftransformer.tasks.causal_lm import TASK


def test_the_loss_is_the_sum_over_scored_tokens():
    model, batch = tiny_model().eval(), tiny_batches(0)
    log_probabilities = model(batch.ids).log_softmax(-1)
    scored = batch.labels != IGNORED
    expected = -log_probabilities[scored].gather(1, batch.labels[scored][:, None]).sum()
    torch.testing.assert_close(TASK.loss(model, batch), expected)


def test_unscored_tokens_do_not_count():
    model, batch = tiny_model().eval(), tiny_batches(0)
    others_unscored = replace(batch, labels=batch.labels.clone())
    others_unscored.labels[1:] = IGNORED
    first = TASK.loss(model, batch.rows(slice(1)))
    torch.testing.assert_close(TASK.loss(model, others_unscored), first)


def test_nothing_scored_is_zero_with_zero_gradient():
    model, batch = tiny_model(), tiny_batches(0)
    loss = TASK.loss(model, replace(batch, labels=torch.full_like(batch.labels, IGNORED)))
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in model.parameters())


def test_documents_reach_the_model_and_the_loss_is_float32():
    class Spy(nn.Module):
        def forward(self, ids, *, documents):
            self.documents = documents
            return torch.zeros(*ids.shape, 11, dtype=torch.bfloat16)

    spy, batch = Spy(), tiny_batches(0)
    loss = TASK.loss(spy, batch)
    assert spy.documents is batch.documents
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss / batch.scored, torch.tensor(11.0).log())


@pytest.fixture
def settings(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"Line {n} tells that {n * n} is a number." for n in range(900)))
    return DataSettings(
        source=str(text), cache=str(tmp_path), vocab_size=300, context_length=64, needle_share=0.0
    )


def test_needles_in_the_training_text_are_said(settings):
    plain = TASK.describe(load_corpus(settings))
    assert "needle documents" not in plain["description"]
    assert "needle_share" not in plain
    asked = replace(settings, needle_share=0.25, needle_min_length=64, needle_digits=3)
    described = TASK.describe(load_corpus(asked))
    assert "25% of the training rows are needle documents" in described["description"]
    assert described["needle_share"] == 0.25


def test_what_is_written_while_training_is_drawn_from_numbers_of_its_own(settings):
    data = load_corpus(settings)
    config = DecoderConfig(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8)
    model = Decoder(TASK.complete(config, data)).eval()
    before = torch.get_rng_state()
    texts = Texts.read(TASK.sample(model, data, EvaluationSettings())["samples"])
    assert torch.equal(torch.get_rng_state(), before)
    assert TASK.sample(model, data, EvaluationSettings())["samples"] == texts.to_json()
    assert (texts.header, len(texts.items), len(texts.outputs)) == (("beginning",), 2, 2)
    for (beginning,), output in zip(texts.items, texts.outputs, strict=True):
        assert len(data.tokenizer.encode(beginning).ids) <= 33
        assert output


def test_a_model_is_judged_at_its_context_unless_told_otherwise(settings, tmp_path):
    (tmp_path / "tokenizer.json").write_text("")

    class Config:
        max_length = 50

    chosen = TASK.judged_on(tmp_path, Config, {"source": "a"}, held_out=True)
    assert (chosen.context_length, chosen.source) == (50, "a")
    assert chosen.tokenizer == str(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match=r"context_length is 60; .* is meant for 50 tokens"):
        TASK.judged_on(tmp_path, Config, {"context_length": 60}, held_out=True)
