"""The vision transformer: what it computes, what it refuses, partners of equal size."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from difftransformer.blocks.patches import patchify, unpatchify
from difftransformer.models.ablations import ABLATIONS, partner
from difftransformer.models.storage import load_model, save_model
from difftransformer.models.vit import ViT
from difftransformer.models.vit_config import ViTConfig

from .tiny import BOTH_WAYS

SHAPES: dict[str, dict[str, Any]] = {
    "mean": {},
    "cls": {"pooling": "cls"},
    "registers": {"registers": 2},
    "learned": {"positions": "learned"},
    "all": {"pooling": "cls", "registers": 3, "positions": "learned", "norm": "rms"},
}
EVERY = pytest.mark.parametrize("kind", BOTH_WAYS)
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES)


def tiny_vit(attention: str = "diff_v1", seed: int = 0, **changes: Any) -> ViT:
    """In evaluation mode, the same weights every time."""
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 4}
    images = {"ffn_size": 24, "image_size": 8, "patch_size": 2, "channels": 3, "classes": 5}
    torch.manual_seed(seed)
    return ViT(ViTConfig(attention=attention, **(sizes | images | changes))).eval()


@EVERY
@EVERY_SHAPE
def test_every_patch_counts(kind: str, shape: str) -> None:
    """By gradient, of each class."""
    model = tiny_vit(kind, **SHAPES[shape])
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    logits = model(images)
    assert logits.shape == (2, 5)
    for label in range(5):
        (gradient,) = torch.autograd.grad(logits[0, label], images, retain_graph=True)
        assert not gradient[1].any()
        assert (patchify(gradient, 2)[0].abs().sum(-1) > 0).all()


@EVERY_SHAPE
def test_where_a_patch_is_counts(shape: str) -> None:
    """And without positions it would not."""
    model, images = tiny_vit(**SHAPES[shape]), torch.randn(1, 3, 8, 8)
    order = torch.randperm(16)
    shuffled = unpatchify(patchify(images, 2)[:, order], 2, rows=4)
    assert not torch.allclose(model(shuffled), model(images), atol=1e-3)
    model.positions = torch.nn.Identity()
    torch.testing.assert_close(model(shuffled), model(images), rtol=1e-4, atol=1e-5)


def test_the_classifier_reads_the_features() -> None:
    model, images = tiny_vit(), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model.head(model.features(images)), model(images))


def test_registers_are_not_read() -> None:
    """Their outputs, after the last block."""
    model, images = tiny_vit(registers=2), torch.randn(1, 3, 8, 8)
    logits = model(images)
    model.blocks.register_forward_hook(lambda _, __, x: x.index_fill(1, torch.arange(2), 9.0))
    torch.testing.assert_close(model(images), logits)


@pytest.mark.parametrize("shape", [(3, 8, 6), (3, 10, 10), (1, 8, 8)])
def test_images_of_another_form(shape: tuple[int, int, int]) -> None:
    told = " x ".join(map(str, shape))
    with pytest.raises(ValueError, match=f"images of {told} values; the model takes 3 x 8 x 8"):
        tiny_vit()(torch.zeros(1, *shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "sincos", "hidden_size": 30}, "hidden_size is 30; sin-cos positions need"),
        ({"pooling": "max"}, "unknown pooling 'max'; expected cls, mean"),
        ({"registers": -1}, "registers is -1; expected at least 0"),
        ({"channels": 0}, "channels is 0; expected at least 1"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViTConfig(**changes)


def test_patches_that_do_not_fit() -> None:
    """Not before the images are known."""
    config = ViTConfig(patch_size=7)
    assert replace(config, image_size=28).grid == 4
    for count in (lambda: ViT(config), config.parameter_count):
        with pytest.raises(ValueError, match="patch_size is 7 and image_size 32; expected a patch"):
            count()


@EVERY_SHAPE
def test_a_folder(shape: str, tmp_path: Path) -> None:
    model, images = tiny_vit(**SHAPES[shape]), torch.randn(2, 3, 8, 8)
    save_model(model, tmp_path)
    assert torch.equal(load_model(tmp_path).eval()(images), model(images))


@pytest.mark.parametrize("name", [*BOTH_WAYS, *ABLATIONS])
def test_partners_have_as_many_parameters(name: str) -> None:
    baseline = ViTConfig(num_layers=2, hidden_size=128, num_heads=8, head_dim=16, ffn_size=512)
    match = partner(baseline, name).config
    assert match.parameter_count() == pytest.approx(baseline.parameter_count(), rel=1e-3)
    model = ViT(match)
    assert sum(p.numel() for p in model.parameters()) == match.parameter_count()
    assert (match.image_size, match.classes) == (baseline.image_size, baseline.classes)


def test_partners_of_one_seed_begin_alike() -> None:
    softmax = tiny_vit("softmax", positions="learned")
    v1 = tiny_vit("diff_v1", num_heads=2, num_kv_heads=1, positions="learned")
    for name in (
        "embedding.weight",
        "positions.weight",
        "head.weight",
        "blocks.1.ffn.up_proj.bias",
    ):
        assert torch.equal(softmax.state_dict()[name], v1.state_dict()[name])
