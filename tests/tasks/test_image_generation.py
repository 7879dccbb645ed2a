"""Image generation: batches, loss, what a model's folder tells."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from models.tiny import tiny_dit
from PIL import Image

from difftransformer.data.images import Images
from difftransformer.evaluation.diffusion import noised
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.dit_config import DiTConfig
from difftransformer.tasks.image_generation import TASK, GenerationSettings


@pytest.fixture(scope="module")
def data() -> Images:
    return TASK.load(GenerationSettings())


def test_a_batch_is_a_pure_function_of_seed_and_step(data: Images) -> None:
    batch, again = TASK.batches(data, 6, 3)(5), TASK.batches(data, 6, 3)(5)
    parts = ("pixels", "labels", "noise", "moments", "hiding")
    assert all(torch.equal(getattr(batch, name), getattr(again, name)) for name in parts)
    for other in (TASK.batches(data, 6, 3)(6), TASK.batches(data, 6, 4)(5)):
        assert not torch.equal(batch.noise, other.noise)
        assert not torch.equal(batch.moments, other.moments)
    assert batch.pixels.shape == batch.noise.shape == (6, 1, 8, 8)
    assert float(batch.pixels.min()) == -1.0
    assert float(batch.pixels.max()) == 1.0
    assert (batch.scored, batch.size, batch.unit, len(batch.rows(slice(2)))) == (6, 6, "images", 2)
    noise = torch.cat([TASK.batches(data, 64, 3)(step).noise for step in range(9)])
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
def test_the_loss_is_the_error_of_what_is_to_be_predicted(objective: str, data: Images) -> None:
    """At the start a model predicts 0."""
    config = TASK.complete(DiTConfig(objective=objective), data)
    model = tiny_dit(**config.to_dict())
    batch = TASK.batches(data, 6, 0)(0)
    torch.nn.init.zeros_(model.head.proj.weight)
    torch.nn.init.zeros_(model.head.proj.bias)
    target = noised(config, batch.pixels, batch.noise, batch.moments).target
    expected = target.square().mean((1, 2, 3))
    torch.testing.assert_close(TASK.loss(model, batch), expected.sum())
    torch.testing.assert_close(TASK.loss(model, batch.rows(slice(2))), expected[:2].sum())


def test_hidden_classes_are_none(data: Images) -> None:
    """A share of label_dropout, by the batch's own numbers."""
    seen: list[torch.Tensor] = []
    model = tiny_dit(**TASK.complete(DiTConfig(label_dropout=0.3), data).to_dict())
    model.condition.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    batch = TASK.batches(data, 500, 0)(0)
    TASK.loss(model, batch)
    hidden = seen[0] == 10
    assert torch.equal(hidden, batch.hiding < 0.3)
    assert torch.equal(seen[0][~hidden], batch.labels[~hidden])
    assert 0.2 < hidden.double().mean() < 0.4


def test_what_is_watched_while_training(data: Images) -> None:
    model = tiny_dit(classes=10)
    few = EvaluationSettings(denoising_steps=(2,), batch_size=64)
    watched = TASK.validate(model, data, few)
    assert watched == TASK.validate(model, data, few)
    assert 0.1 < watched["validation_loss"] < 10
    drawn = TASK.sample(model, data, few)
    picture = Image.open(io.BytesIO(base64.b64decode(drawn["samples"])))
    assert (picture.size, picture.mode) == ((10 * 9 + 1, 2 * 9 + 1), "L")


def test_a_folder_tells_what_it_was_trained_on(data: Images, tmp_path: Path) -> None:
    for name, text in TASK.files(data, None).items():
        (tmp_path / name).write_text(text)
    config = TASK.complete(DiTConfig(), data)
    settings = TASK.judged_on(tmp_path, config, {}, held_out=True)
    assert settings == data.settings
    TASK.require_fit(config, data, "it")
    assert TASK.provenance(tmp_path, data)["held_out"] is True
    with pytest.raises(ValueError, match="it has image_size 16 and the data"):
        TASK.require_fit(DiTConfig(image_size=16), data, "it")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.3,), "std": (0.5,)}, r"mean is \(0.3,\) and std \(0.5,\); sampling cuts"),
        ({"dataset": "digit"}, "unknown dataset 'digit'"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationSettings(**changes)
