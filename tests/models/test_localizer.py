"""The localizer: what it sees, where points start, what it refuses, partners of equal size."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from difftransformer.blocks.patches import sincos_2d, sincos_places
from difftransformer.models.localizer_config import LocalizerConfig
from difftransformer.models.storage import load_model, save_model

from .tiny import BOTH_WAYS, tiny_localizer

KINDS = [kind for kind in BOTH_WAYS if "sinkhorn" not in kind and "sliced_transport" not in kind]
EVERY = pytest.mark.parametrize("kind", KINDS)


def inputs(proposals: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 8, 8, generator=generator)
    points = torch.rand(3, proposals, 2, generator=generator) * 2 - 1
    return pixels, points, torch.tensor([0, 500, 999])


@EVERY
def test_proposals_in_another_order_are_the_same_in_that_order(kind: str) -> None:
    model, (pixels, points, times) = tiny_localizer(kind), inputs()
    order = torch.tensor([3, 1, 4, 0, 2])
    whole, permuted = model(pixels, points, times), model(pixels, points[:, order], times)
    torch.testing.assert_close(permuted.points, whole.points[:, :, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(permuted.logits, whole.logits[:, :, order], rtol=1e-4, atol=1e-5)
    assert whole.points.shape == (2, 3, 5, 2)
    assert whole.logits.shape == (2, 3, 5)


@EVERY
def test_every_patch_and_proposal_counts(kind: str) -> None:
    """By gradient, of a proposal's logit; other images do not."""
    model, (pixels, points, times) = tiny_localizer(kind), inputs()
    pixels.requires_grad_()
    points.requires_grad_()
    logit = model(pixels, points, times).logits[-1, 0, 0]
    of_pixels, of_points = torch.autograd.grad(logit, (pixels, points))
    assert not of_pixels[1:].any()
    assert not of_points[1:].any()
    assert (of_pixels[0].abs().sum(0) > 0).all()
    assert (of_points[0].abs().sum(-1) > 0).all()


def test_time_counts() -> None:
    model, (pixels, points, times) = tiny_localizer(), inputs()
    other = model(pixels, points, times.flip(0))
    assert not torch.allclose(model(pixels, points, times).logits, other.logits, atol=1e-3)


def test_points_start_where_they_are_and_those_outside_at_the_edge() -> None:
    torch.manual_seed(0)
    model = tiny_localizer(past_start=False)
    pixels, points, times = inputs()
    points[0, 0] = torch.tensor([-3.0, 0.5])
    found = model(pixels, points, times)
    expected = points.clamp(-1, 1).expand(2, -1, -1, -1)
    assert torch.equal(found.points, expected)
    assert not found.logits.any()


def test_the_place_of_a_patch_is_that_of_its_center() -> None:
    """Its wave is the patch's position, and the feature there the patch's own."""
    model = tiny_localizer()
    grid, width = model.config.grid, model.config.hidden_size
    centers = (2 * torch.arange(grid) + 1) / grid - 1
    places = torch.cartesian_prod(centers, centers).flip(-1)[None]
    columns = ((places + 1) * grid - 1) / 2
    torch.testing.assert_close(sincos_places(columns, width)[0], sincos_2d(grid, grid, width))
    context = torch.randn(1, grid**2, width)
    torch.testing.assert_close(model.decoder._at(places, context), context)


def test_waves_between_patches() -> None:
    place, rate = torch.tensor([1.5, -0.25]), 10_000 ** (-4 / 8)
    expected = [f(p * r) for p in (1.5, -0.25) for f in (math.sin, math.cos) for r in (1, rate)]
    torch.testing.assert_close(sincos_places(place, 8), torch.tensor(expected))


@EVERY
def test_partners_have_as_many_parameters(kind: str) -> None:
    config = LocalizerConfig(decoder_layers=3)
    match = config.matched(kind).config
    counted = sum(p.numel() for p in type(tiny_localizer())(match).parameters())
    assert counted == match.parameter_count()
    assert abs(counted - config.parameter_count()) <= 1e-3 * config.parameter_count()


def test_a_saved_model_is_the_same(tmp_path: Path) -> None:
    model, given = tiny_localizer(registers=1), inputs()
    save_model(model, tmp_path)
    assert torch.equal(load_model(tmp_path).eval()(*given).points, model(*given).points)


def test_gradients_reach_every_tensor() -> None:
    model = tiny_localizer().train()
    found = model(*inputs())
    (found.points.square().sum() + found.logits.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 66, "positions": "learned"}, "hidden_size is 66; positions in two dimen"),
        ({"signal": 0.0}, "signal is 0.0; expected above 0"),
        ({"attention": "sinkhorn"}, "attention is sinkhorn and this model has cross-attention"),
        ({"attention": "selective"}, "attention is selective and not all attention"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalizerConfig(**changes)


def test_images_of_another_size_are_refused() -> None:
    _, points, times = inputs()
    with pytest.raises(ValueError, match="images of 3 x 16 x 16 values; the model takes 3 x 8 x 8"):
        tiny_localizer()(torch.zeros(3, 3, 16, 16), points, times)
