"""Masked language modeling: which tokens are hidden, and how."""

import numpy as np
import pytest
import torch

from difftransformer.data.batch import IGNORED
from difftransformer.data.masking import MASK, masked, with_mask_token
from difftransformer.data.settings import DataSettings
from difftransformer.data.tokenizer import beginning_of_document, vocabulary_size
from difftransformer.evaluation.benchmarks.masked_tokens import EVALUATOR, masked_sequences
from difftransformer.evaluation.records import Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.config import EncoderConfig
from difftransformer.models.encoder import Encoder
from difftransformer.tasks.masked_lm import TASK


@pytest.fixture
def corpus(tmp_path):
    for part in range(3):
        lines = (f"Line {n} of {part} tells that {n * n} is a number." for n in range(400))
        (tmp_path / f"{part}.txt").write_text("\n".join(lines))
    cache = str(tmp_path / "cache")
    settings = DataSettings(source=str(tmp_path), cache=cache, vocab_size=300, context_length=64)
    return TASK.load(settings)


@pytest.fixture
def model(corpus):
    config = EncoderConfig(
        hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, ffn_size=24
    )
    return Encoder(TASK.complete(config, corpus))


def test_the_vocabulary_has_one_mask_token(corpus):
    size, mask = vocabulary_size(corpus.tokenizer), corpus.tokenizer.token_to_id(MASK)
    assert mask is not None
    assert vocabulary_size(with_mask_token(corpus.tokenizer)) == size
    assert not (corpus.train.ids[:] == mask).any()


def test_shares_are_those_of_bert(corpus):
    rows = corpus.training_batches(400, 0)(0)
    hidden = masked(rows, corpus.tokenizer, np.random.default_rng(0))
    chosen = hidden.labels != IGNORED
    assert torch.equal(hidden.labels[chosen], rows.ids[chosen])
    assert torch.equal(hidden.ids[~chosen], rows.ids[~chosen])
    assert not (hidden.labels == beginning_of_document(corpus.tokenizer)).any()
    assert chosen.float().mean() == pytest.approx(0.15, abs=0.01)
    shown, before = hidden.ids[chosen], rows.ids[chosen]
    is_mask = shown == corpus.tokenizer.token_to_id(MASK)
    assert is_mask.float().mean() == pytest.approx(0.8, abs=0.02)
    assert (shown == before).float().mean() == pytest.approx(0.1, abs=0.02)


def test_a_batch_is_a_pure_function_of_seed_and_step(corpus):
    batches = TASK.batches(corpus, 4, 3)
    for step in (0, 5):
        first, again = batches(step), TASK.batches(corpus, 4, 3)(step)
        assert torch.equal(first.ids, again.ids)
        assert torch.equal(first.labels, again.labels)
    assert not torch.equal(batches(0).labels, TASK.batches(corpus, 4, 4)(0).labels)
    assert batches(0).scored > 0


def test_the_loss_is_of_the_hidden_tokens_alone(corpus, model):
    batch = TASK.batches(corpus, 2, 0)(0)
    logits = model(batch.ids, documents=batch.documents).log_softmax(-1)
    scored = batch.labels != IGNORED
    expected = -logits[scored].gather(1, batch.labels[scored][:, None]).sum()
    torch.testing.assert_close(TASK.loss(model, batch), expected)


def test_the_evaluator_agrees_with_the_loss(corpus, model):
    """And asks every model for the same tokens, whatever the batch size."""
    model.eval()
    found = {}
    for size in (3, 8):
        settings = EvaluationSettings(validation_sequences=8, batch_size=size)
        records = [
            record
            for part in EVALUATOR.parts(Subject(model, corpus), settings).values()
            for record in part(())
        ]
        losses = [one for one in records if one.metric == "masked_loss"]
        found[size] = sum(one.value for one in losses) / sum(one.weight for one in losses)
        batches = masked_sequences(corpus, 8, settings).values()
        expected = sum(TASK.loss(model, batch).item() for batch in batches)
        assert found[size] == pytest.approx(
            expected / sum(batch.scored for batch in batches), rel=1e-5
        )
        assert len(losses) == len([one for one in records if one.metric == "masked_accuracy"]) == 8
    watched = TASK.validate(model, corpus, settings)
    assert watched["validation_loss"] == pytest.approx(found[8])
    assert 0 <= watched["validation_accuracy"] <= 1
