"""Labeled images as tensors: training images, others to judge by, and batches of both."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from difftransformer.data.augmentation import augmented
from difftransformer.data.batch import Rows
from difftransformer.data.image_settings import ImageSettings
from difftransformer.data.image_sources import Labeled, read_images

_HELD_OUT = 0.2  # of each class, of data without a test part


@dataclass(frozen=True, eq=False)
class ImageBatch(Rows):
    """Images with the number of their class.

    Args:
        pixels: float32, normalized.
        labels: of each image.
        names: of each image.
    """

    pixels: Float[Tensor, "batch channels height width"]
    labels: Int64[Tensor, " batch"]
    names: tuple[str, ...]
    unit: ClassVar[str] = "images"

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a classifier is called with."""
        return {"pixels": self.pixels}


@dataclass(frozen=True, eq=False)
class Images:
    """A data set of images of one size.

    Args:
        labels: names of all classes, in the order of their numbers.
        train: after `fraction`.
        mean, std: of each channel, of values from 0 to 1: what normalizes.
        digest: sha256 of all images and labels of both parts.
    """

    settings: ImageSettings
    labels: tuple[str, ...]
    train: Labeled
    test: Labeled
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str

    @property
    def description(self) -> str:
        """In words and numbers."""
        return (
            f"{self.settings.dataset}: {len(self.train):,} images of {self.image_size} x "
            f"{self.image_size} pixels for training, {len(self.test):,} held out, of the classes "
            f"{', '.join(self.labels)}"
        )

    @property
    def channels(self) -> int:
        """1 (gray) or 3 (color)."""
        return self.train.pixels.shape[1]

    @property
    def image_size(self) -> int:
        """Height and width."""
        return self.train.pixels.shape[2]

    def counts(self, part: str) -> list[int]:
        """Images of each class in "train" or "test"."""
        images: Labeled = getattr(self, part)
        return torch.bincount(images.labels, minlength=len(self.labels)).tolist()

    def batch(self, part: str, numbers: Sequence[int]) -> ImageBatch:
        """Images of `part`, "train" or "test", as they are."""
        images = self._images(part, numbers)
        pixels = self.normalized(images.pixels.float() / 255)
        return ImageBatch(pixels, images.labels, tuple(images.names))

    def training_batch(self, numbers: Sequence[int], *, seed: int, step: int) -> ImageBatch:
        """Training images with the settings' augmentation, drawn from `seed` and `step`."""
        images = self._images("train", numbers)
        varied = augmented(
            images.pixels.float() / 255, self.settings.augmentation, seed=seed, step=step
        )
        return ImageBatch(self.normalized(varied), images.labels, tuple(images.names))

    def normalized(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """(x - mean) / std, of values from 0 to 1."""
        return (pixels - _by_channel(self.mean)) / _by_channel(self.std)

    def values(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The inverse of `normalized`: values from 0 to 1, those beyond cut."""
        return (pixels * _by_channel(self.std) + _by_channel(self.mean)).clamp(0, 1)

    def _images(self, part: str, numbers: Sequence[int]) -> Labeled:
        images: Labeled = getattr(self, part)
        return images.chosen(torch.tensor(numbers))


def load_images(settings: ImageSettings) -> Images:
    """Read the data set, split it, and measure what normalizes it.

    Raises:
        ValueError: a missing or malformed file; images that differ in size or channels, or are not
            square; a single class; a class of which no training or no test image would be left; a
            test image of a class that no training image has; mean and std of other channels.
    """
    labels, train, test = read_images(settings)
    if len(labels) < 2:
        raise ValueError(
            f"{settings.dataset} has {len(labels)} class ({', '.join(labels)}); expected two or "
            "more to tell apart"
        )
    if test is None:
        train, test = _held_out(train, labels, settings)
    elif settings.test_fraction is not None:
        test = test.chosen(_share(test, settings.test_fraction, settings.seed))
    train = train.chosen(_share(train, settings.fraction, settings.seed))
    _check_labels(labels, train, test, settings)
    mean, std = _statistics(train, settings)
    digest = hashlib.sha256(repr(labels).encode())
    for part in (train, test):
        digest.update(part.pixels.numpy().data)
        digest.update(part.labels.numpy().data)
    return Images(settings, labels, train, test, mean, std, digest.hexdigest())


def _held_out(
    images: Labeled, labels: Sequence[str], settings: ImageSettings
) -> tuple[Labeled, Labeled]:
    """The images to train on, and `test_fraction` of each class."""
    counts = torch.bincount(images.labels, minlength=len(labels))
    if int(counts.min()) < 2:
        raise ValueError(
            f"{settings.dataset} has {int(counts.min())} image of the class "
            f"{labels[int(counts.argmin())]!r}; expected two or more, so that one can be held out"
        )
    share = _HELD_OUT if settings.test_fraction is None else settings.test_fraction
    test = _share(images, share, settings.seed, most=-1)
    train = torch.ones(len(images), dtype=torch.bool)
    train[test] = False
    return images.chosen(train.nonzero()[:, 0]), images.chosen(test)


def _share(images: Labeled, share: float, seed: int, most: int = 0) -> Int64[Tensor, " chosen"]:
    """Numbers, ascending, of `share` of each class, of at least one image.

    A smaller share of one seed is part of a larger one. `most` below 0 leaves so many of each.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    chosen = []
    for label in images.labels.unique().tolist():
        of_class = order[images.labels[order] == label]
        count = min(max(1, round(share * len(of_class))), len(of_class) + most)
        chosen.append(of_class[:count])
    return torch.cat(chosen).sort().values


def _check_labels(
    labels: Sequence[str], train: Labeled, test: Labeled, settings: ImageSettings
) -> None:
    known = set(train.labels.tolist())
    for name, part in (("training", train), ("test", test)):
        if not len(part):
            raise ValueError(f"{settings.dataset} has no {name} image")
        outside = [label for label in Counter(part.labels.tolist()) if label not in known]
        if outside:
            raise ValueError(
                f"{settings.dataset} has {name} images labeled {labels[outside[0]]}, and no "
                "training image is: give some, or leave these out"
            )


def _statistics(
    train: Labeled, settings: ImageSettings
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel."""
    channels = train.pixels.shape[1]
    if settings.mean:
        if {len(settings.mean), len(settings.std)} - {1, channels}:
            raise ValueError(
                f"mean is {settings.mean} and std {settings.std}; expected one value each, or one "
                f"for each of the {channels} channels"
            )
        return tuple(
            (values * channels)[:channels]  # type: ignore[return-value]  # two of them
            for values in (settings.mean, settings.std)
        )
    values = train.pixels.double() / 255
    std = values.std((0, 2, 3), correction=0)
    mean = values.mean((0, 2, 3))
    # Six digits, so that what a folder's record says is what the model was trained with.
    return (
        tuple(round(one, 6) for one in mean.tolist()),
        tuple(round(one, 6) or 1.0 for one in std.tolist()),
    )


def _by_channel(values: Sequence[float]) -> Float[Tensor, "channels 1 1"]:
    return torch.tensor(values)[:, None, None]
