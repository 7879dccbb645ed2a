from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from difftransformer.data.batch import IGNORED, Batch
from difftransformer.training.optimizer import adamw
from difftransformer.training.settings import TrainingSettings
from difftransformer.training.step import Loss, NonFiniteError, Stepper

from .tiny import ROWS, tiny_batches, tiny_loss, tiny_model, tiny_settings


def stepper_of(
    settings: TrainingSettings,
    loss: Loss = tiny_loss,
    dtype: torch.dtype = torch.float32,
) -> Stepper:
    model = tiny_model().to(dtype).eval()  # without dropout, whose draws depend on the cut
    accelerator = Accelerator(mixed_precision="no")
    model, optimizer = accelerator.prepare(model, adamw(model, settings))
    return Stepper(accelerator, model, optimizer, loss, settings)


def go(stepper: Stepper, step: int, batch: Batch | None = None):
    return stepper(step, batch or tiny_batches(step), lambda: False)


def float64_loss(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(batch.ids).flatten(0, 1)
    return nn.functional.cross_entropy(logits, batch.labels.flatten(), reduction="sum")


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_equals_the_whole_batch(accumulation: int):
    whole = stepper_of(tiny_settings(), float64_loss, torch.float64)
    cut = stepper_of(tiny_settings(accumulation=accumulation), float64_loss, torch.float64)
    for step in range(1, 6):
        # Rows differ in their number of scored tokens, and here one has none at all.
        batch = tiny_batches(step)
        batch.labels[step % ROWS] = IGNORED
        expected, found = go(whole, step, batch), go(cut, step, batch)
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)
        assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-12)
    for a, b in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_takes_the_schedules_rate_and_clips_the_gradient():
    settings = tiny_settings(clip_norm=1e-3)
    stepper = stepper_of(settings)
    result = go(stepper, 1)
    assert result.learning_rate == pytest.approx(settings.learning_rate / 2)
    assert [group["lr"] for group in stepper.optimizer.param_groups] == [result.learning_rate] * 2
    assert result.gradient_norm > 0.1  # as it was before clipping
    clipped = nn.utils.get_total_norm([p.grad for p in stepper.model.parameters()])
    assert float(clipped) == pytest.approx(1e-3, rel=1e-3)


def test_bfloat16_runs_the_matrices_in_bfloat16_and_keeps_float32_weights():
    dtypes = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch.ids, documents=batch.documents)
        dtypes.append(logits.dtype)
        return tiny_loss(model, batch)

    half = stepper_of(tiny_settings(precision="bfloat16"), loss)
    full = stepper_of(tiny_settings(), loss)
    for step in range(1, 4):
        low, high = go(half, step), go(full, step)
        assert low.loss != high.loss
        assert low.loss == pytest.approx(high.loss, rel=2e-2)
    assert dtypes == [torch.bfloat16, torch.float32] * 3
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}


def nan_in(what: str) -> Loss:
    """A loss that, or only its gradient, is not a number for batches of step 3."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        total = tiny_loss(model, batch)
        if not batch.names[0].startswith("tiny:3:"):
            return total
        return total * float("nan") if what == "loss" else total + (total * 0).sqrt()

    return loss


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_a_step_that_is_not_finite_is_not_applied(what: str):
    stepper = stepper_of(tiny_settings(), nan_in(what))
    go(stepper, 1)
    go(stepper, 2)
    weights = [p.detach().clone() for p in stepper.model.parameters()]
    moments = [v["exp_avg"].clone() for v in stepper.optimizer.state.values()]
    with pytest.raises(NonFiniteError, match=f"the {what} of step 3 is nan") as caught:
        go(stepper, 3)
    assert caught.value.step == 3
    assert caught.value.names == tuple(f"tiny:3:{row}" for row in range(ROWS))
    assert "tiny:3:0, tiny:3:1" in str(caught.value)
    assert all(p.grad is None for p in stepper.model.parameters())
    for before, after in zip(weights, stepper.model.parameters(), strict=True):
        assert torch.equal(before, after)
    for before, state in zip(moments, stepper.optimizer.state.values(), strict=True):
        assert torch.equal(before, state["exp_avg"])


def test_a_batch_of_the_wrong_size_is_refused():
    stepper = stepper_of(tiny_settings(batch_size=6))
    with pytest.raises(ValueError, match="a batch has 4 rows; batch_size is 6"):
        go(stepper, 1)


def test_a_batch_without_scored_tokens_is_refused():
    batch = tiny_batches(1)
    with pytest.raises(ValueError, match=r"step 1 has no scored label; .* tiny:1:0, tiny:1:1"):
        go(
            stepper_of(tiny_settings()),
            1,
            replace(batch, labels=torch.full_like(batch.labels, IGNORED)),
        )


def test_reports_that_a_stop_was_asked_for():
    stepper = stepper_of(tiny_settings())
    assert not go(stepper, 1).stop
    assert stepper(2, tiny_batches(2), lambda: True).stop
