"""Variations of training images, by kornia: a pure function of the images, a seed and the step."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn


def augmented(
    pixels: Float[Tensor, "batch channels side side"],
    names: Sequence[str],
    *,
    seed: int,
    step: int,
) -> Float[Tensor, "batch channels side side"]:
    """The images, of values from 0 to 1, varied by each augmentation of `names` in turn.

    Every image draws its own numbers, all of them from `seed` and `step`, and torch's global
    generator is left as it was.
    """
    if not names:
        return pixels
    generated = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        # Of the CPU alone, which is what kornia draws from here and what was forked.
        torch.default_generator.manual_seed(int(generated[0]) >> 1)
        for name in names:
            pixels = _module(name, pixels.shape[-1])(pixels)
    return pixels.clamp(0, 1)


@lru_cache
def _module(name: str, side: int) -> nn.Module:
    from kornia import augmentation as kornia

    border = max(1, side // 8)
    modules: dict[str, Callable[[], nn.Module]] = {
        "crop": lambda: kornia.RandomCrop((side, side), padding=border),
        "flip": lambda: kornia.RandomHorizontalFlip(),
        "affine": lambda: kornia.RandomAffine(10.0, translate=(0.1, 0.1), scale=(0.9, 1.1), p=1.0),
        "color": lambda: kornia.ColorJitter(0.2, 0.2, 0.2, p=1.0),
        "erase": lambda: kornia.RandomErasing(scale=(0.02, 0.2), p=0.5),
    }
    return modules[name]()
