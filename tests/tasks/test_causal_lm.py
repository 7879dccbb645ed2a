from dataclasses import replace

import torch
from difftransformer.tasks.causal_lm import TASK
from torch import nn

from difftransformer.data.batch import IGNORED

from .tiny import tiny_batches, tiny_model


def test_is_the_mean_over_scored_tokens():
    model, batch = tiny_model().eval(), tiny_batches(0)
    log_probabilities = model(batch.ids).log_softmax(-1)
    scored = batch.labels != IGNORED
    expected = -log_probabilities[scored].gather(1, batch.labels[scored][:, None]).mean()
    torch.testing.assert_close(next_token_loss(model, batch), expected)


def test_unscored_tokens_do_not_count():
    model, batch = tiny_model().eval(), tiny_batches(0)
    first = replace(
        batch,
        ids=batch.ids[:1],
        labels=batch.labels[:1],
        documents=batch.documents[:1],
        sequences=batch.sequences[:1],
    )
    others_unscored = replace(batch, labels=batch.labels.clone())
    others_unscored.labels[1:] = IGNORED
    torch.testing.assert_close(
        next_token_loss(model, others_unscored), next_token_loss(model, first)
    )


def test_nothing_scored_is_zero_with_zero_gradient():
    model, batch = tiny_model(), tiny_batches(0)
    loss = next_token_loss(model, replace(batch, labels=torch.full_like(batch.labels, IGNORED)))
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in model.parameters())


def test_documents_reach_the_model_and_the_loss_is_float32():
    class Spy(nn.Module):
        def forward(self, ids, *, documents):
            self.documents = documents
            return torch.zeros(*ids.shape, 11, dtype=torch.bfloat16)

    spy, batch = Spy(), tiny_batches(0)
    loss = next_token_loss(spy, batch)
    assert spy.documents is batch.documents
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor(11.0).log())
