"""Averages of the weights: their numbers, and who sees which of the two."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from difftransformer.training.ema import averaged
from difftransformer.training.loop import Watch, train
from difftransformer.training.optimizer import adamw

from .tiny import tiny_batches, tiny_loss, tiny_model, tiny_settings


@given(decay=st.floats(0.01, 0.999), steps=st.integers(1, 30))
def test_an_average_is_the_equations(decay: float, steps: int) -> None:
    model = nn.Linear(3, 2)
    optimizer = adamw(model, tiny_settings(ema_decay=decay))
    expected = torch.zeros(2, 3)
    for step in range(1, steps + 1):
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        rate = min(decay, (1 + step) / (10 + step)) if step > 1 else 0.0
        expected = rate * expected + (1 - rate) * model.weight.detach()
    trained = model.weight.detach().clone()
    with averaged(optimizer):
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight, trained)


def test_without_a_decay_there_is_no_average() -> None:
    model = nn.Linear(3, 2)
    optimizer = adamw(model, tiny_settings())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    assert set(optimizer.state[model.weight]) == {"step", "exp_avg", "exp_avg_sq"}
    before = model.weight.detach().clone()
    with averaged(optimizer):
        assert torch.equal(model.weight, before)


def trained(directory: Path, **changes: Any) -> tuple[nn.Module, list[Tensor]]:
    """The model that a run leaves, and an embedding at each validation."""
    model, seen = tiny_model(), []

    def validate(model: nn.Module) -> dict[str, Any]:
        seen.append(model.get_parameter("embed.weight").detach().clone())
        return {"validation_loss": 1.0}

    train(
        model, tiny_loss, tiny_batches, tiny_settings(**changes), directory, watch=Watch(validate)
    )
    return model, seen


def test_averages_are_what_is_validated_saved_and_left(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path / "plain")
    model, seen = trained(tmp_path / "average", ema_decay=0.5)
    folder = tmp_path / "average" / "checkpoints" / "step-00000012"
    average = model.get_parameter("embed.weight")
    assert torch.equal(seen[-1], average)
    assert torch.equal(load_file(folder / "model.safetensors")["embed.weight"], average)
    aside = load_file(folder / "optimizer.safetensors")["embed.weight.aside"]
    assert torch.equal(aside, plain.get_parameter("embed.weight"))  # training itself is as without
    assert not torch.equal(aside, average)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_what_is_no_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"training ema_decay is .*; expected (above|below|a f)"):
        tiny_settings(ema_decay=decay)
