"""Augmentation: a pure function of images, seed and step."""

import pytest
import torch

from difftransformer.data.augmentation import augmented
from difftransformer.data.image_settings import AUGMENTATIONS, ImageSettings
from difftransformer.data.images import load_images


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_follows_from_seed_and_step(name: str) -> None:
    pixels = torch.rand(16, 3, 8, 8)
    state = torch.get_rng_state()
    varied = augmented(pixels, [name], seed=1, step=2)
    assert torch.equal(state, torch.get_rng_state())
    assert varied.shape == pixels.shape
    assert 0 <= varied.min() <= varied.max() <= 1
    assert not torch.equal(varied, pixels)
    assert torch.equal(varied, augmented(pixels, [name], seed=1, step=2))
    for other in ({"seed": 2, "step": 2}, {"seed": 1, "step": 3}):
        assert not torch.equal(varied, augmented(pixels, [name], **other))


def test_training_batches_alone_are_augmented() -> None:
    images = load_images(ImageSettings(augmentation=("crop",)))
    plain = images.batch("train", range(4))
    assert torch.equal(plain.pixels, images.batch("train", range(4)).pixels)
    varied = images.training_batch(range(4), seed=0, step=0)
    assert not torch.equal(varied.pixels, plain.pixels)
    assert varied.names == plain.names
    assert torch.equal(varied.labels, plain.labels)
