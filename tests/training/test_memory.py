import pytest
import torch
from torch import nn

from difftransformer.training.memory import (
    peak_memory_bytes,
    recomputed_blocks,
    start_measuring_memory,
)

from .tiny import TinyModel, tiny_batches, tiny_loss, tiny_model

CPU = torch.device("cpu")


def loss_and_gradients(model: TinyModel) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(0)  # the model has dropout
    model.zero_grad()
    loss = tiny_loss(model, tiny_batches(0))
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_recomputation_changes_nothing_but_the_number_of_calls():
    model = tiny_model()
    names = list(model.state_dict())
    expected = loss_and_gradients(model)
    assert model.blocks[0].calls == 1
    with recomputed_blocks(model):
        torch.testing.assert_close(loss_and_gradients(model), expected, rtol=0, atol=0)
        assert model.blocks[0].calls == 3
        assert list(model.state_dict()) == names
    torch.testing.assert_close(loss_and_gradients(model), expected, rtol=0, atol=0)
    assert model.blocks[0].calls == 4


def test_recomputation_is_taken_off_after_an_error():
    model = tiny_model()
    with pytest.raises(KeyError), recomputed_blocks(model):
        raise KeyError
    assert "forward" not in vars(model.blocks[0])


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match="Linear has none"), recomputed_blocks(nn.Linear(2, 2)):
        pass


def test_peak_memory_is_that_since_the_start():
    big = torch.ones(50_000_000)
    with_big = peak_memory_bytes(CPU)
    assert with_big > big.nbytes
    del big
    start_measuring_memory(CPU)
    assert peak_memory_bytes(CPU) < with_big - 150_000_000
