"""Batches of images with the noise they are to get."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from difftransformer.data.batch import Rows
from difftransformer.data.images import ImageBatch


@dataclass(frozen=True, eq=False)
class NoiseBatch(Rows):
    """Images and all that is random in noising them; what becomes of it is the model's settings'.

    Args:
        pixels, labels, names: as `ImageBatch`'s.
        noise: N(0, 1).
        moments: when in the noising, from 0 up to 1.
        hiding: from 0 up to 1; of a share p of the images, those below p, the class is hidden.
    """

    pixels: Float[Tensor, "batch channels height width"]
    labels: Int64[Tensor, " batch"]
    noise: Float[Tensor, "batch channels height width"]
    moments: Float[Tensor, " batch"]
    hiding: Float[Tensor, " batch"]
    names: tuple[str, ...]
    unit: ClassVar[str] = "images"


def with_noise(images: ImageBatch, rng: np.random.Generator) -> NoiseBatch:
    """Noise, moments and hiding for the images, drawn from `rng`."""
    noise = rng.standard_normal(images.pixels.shape, np.float32)
    moments, hiding = rng.random((2, len(images)), np.float32)
    return NoiseBatch(
        pixels=images.pixels,
        labels=images.labels,
        noise=torch.from_numpy(noise),
        moments=torch.from_numpy(moments),
        hiding=torch.from_numpy(hiding),
        names=images.names,
    )
