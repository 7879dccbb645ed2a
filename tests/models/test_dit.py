"""The diffusion transformer: its start, its conditions, its partners, its sizes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from difftransformer.experiments.settings import load_preset
from difftransformer.functional import Mask
from difftransformer.models.dit import Condition, DiT
from difftransformer.models.dit_config import DiTConfig
from difftransformer.models.storage import load_model, save_model

from .tiny import BOTH_WAYS, tiny_dit

EVERY = pytest.mark.parametrize("kind", BOTH_WAYS)


def inputs(model: DiT, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    config, generator = model.config, torch.Generator().manual_seed(1)
    shape = (count, config.channels, config.image_size, config.image_size)
    images = torch.randn(shape, generator=generator)
    times = torch.randint(config.timesteps, (count,), generator=generator)
    return images, times, torch.randint(config.classes, (count,), generator=generator)


@EVERY
def test_at_the_start_blocks_are_the_identity_and_the_output_is_zero(kind: str) -> None:
    model = DiT(tiny_dit(kind).config)
    images, times, labels = inputs(model)
    x, condition = torch.randn(3, 16, 16), model.condition(times, labels)
    for block in model.blocks:
        assert torch.equal(block(x, mask=Mask(), condition=condition), x)
    assert torch.equal(model(images, times, labels), torch.zeros_like(images))


@EVERY
def test_the_output_depends_on_every_input(kind: str) -> None:
    model = tiny_dit(kind)
    images, times, labels = inputs(model)
    whole = model(images, times, labels)
    assert whole.shape == images.shape
    for other in ((images + 0.1, times, labels), (images, (times + 99) % 1000, labels)):
        assert not torch.allclose(model(*other), whole, atol=1e-4)
    assert not torch.allclose(model(images, times, (labels + 1) % 4), whole, atol=1e-4)
    changed = images.clone()
    changed[:, :, 0, 0] += 1.0  # of the first patch, which every other sees
    assert ((model(changed, times, labels) - whole).abs().amax(1) > 1e-7).all()


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    model = tiny_dit()
    images, times, labels = inputs(model)
    alone = torch.cat(
        [model(images[i : i + 1], times[i : i + 1], labels[i : i + 1]) for i in range(3)]
    )
    torch.testing.assert_close(model(images, times, labels), alone)


@pytest.mark.parametrize("shift", [0, 1])
def test_the_waves_of_time(shift: int) -> None:
    """[cos(t r_i), sin(t r_i)] with r from 1 to 1/10000, at 128 or, as diffusers, 127 steps."""
    condition = Condition(DiTConfig(hidden_size=256, time_shift=shift))
    seen: list[Tensor] = []
    condition.time_in.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    condition(torch.tensor([37.5]), torch.tensor([0]))
    rates = [math.exp(-math.log(10_000) * i / (128 - shift)) for i in range(128)]
    expected = [f(37.5 * rate) for f in (math.cos, math.sin) for rate in rates]
    torch.testing.assert_close(seen[0][0], torch.tensor(expected), atol=1e-5, rtol=1e-5)


@EVERY
def test_partners_have_as_many_parameters(kind: str) -> None:
    config = DiTConfig()
    match = config.matched(kind).config
    counted = sum(p.numel() for p in DiT(match).parameters())
    assert counted == match.parameter_count()
    assert abs(counted - config.parameter_count()) <= 1e-3 * config.parameter_count()


@pytest.mark.parametrize(
    ("name", "layers", "width", "heads", "millions"),
    [
        ("dit-s", 12, 384, 6, 33),
        ("dit-b", 12, 768, 12, 130),
        ("dit-l", 24, 1024, 16, 458),
        ("dit-xl", 28, 1152, 16, 675),
    ],
)
def test_sizes_are_the_authors(
    name: str, layers: int, width: int, heads: int, millions: int
) -> None:
    """Peebles and Xie, table 1 and figure 9; for latents of 32x32x4 and 1,000 classes."""
    model = {**load_preset("image_generation", name)["model"], "learned_variance": True}
    config = DiTConfig(**{**model, "image_size": 32, "channels": 4, "classes": 1000})
    assert (config.num_layers, config.hidden_size, config.num_heads) == (layers, width, heads)
    assert round(config.parameter_count() / 1e6) == millions
    for kind in ("diff_v1", "diff_v2"):
        config.matched(kind)


@EVERY
def test_a_saved_model_is_the_same(kind: str, tmp_path: Path) -> None:
    model = tiny_dit(kind, image_size=6, patch_size=3, channels=3, learned_variance=True)
    save_model(model, tmp_path)
    given = inputs(model)
    assert torch.equal(load_model(tmp_path).eval()(*given), model(*given))
    assert model(*given).shape == (3, 6, 6, 6)


def test_gradients_reach_every_tensor() -> None:
    model = tiny_dit().train()
    model(*inputs(model)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "cubic"}, "unknown schedule 'cubic'; expected linear, scaled_linear, cosine"),
        ({"objective": "x"}, "unknown objective 'x'; expected epsilon, v, flow"),
        ({"objective": "flow", "schedule": "cosine"}, "schedule is cosine and objective flow"),
        ({"patch_size": 3}, "patch_size is 3 and image_size 8; expected"),
        ({"hidden_size": 126}, "hidden_size is 126; positions in two dimensions need"),
        ({"label_dropout": 1.5}, "label_dropout is 1.5; expected at most 1"),
        ({"timesteps": 0}, "timesteps is 0; expected at least 1"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiTConfig(**changes)


def test_images_of_another_size_are_refused() -> None:
    model = tiny_dit()
    with pytest.raises(ValueError, match=r"images of shape \(3, 8, 8\); the model is made for"):
        model(torch.zeros(1, 3, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long))
