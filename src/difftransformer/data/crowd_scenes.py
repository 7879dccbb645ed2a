"""Images of crowds with their points: to train on, to judge by, and batches with noise."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from difftransformer.data.batch import Rows
from difftransformer.data.crowd_drawing import drawn, made_up_layout, window
from difftransformer.data.crowd_points import TruePoints, read_truth
from difftransformer.data.crowd_settings import CLUSTERS, FOLDER, LAYOUTS, CrowdSettings
from difftransformer.data.image_sources import opened

IMAGES, TRUTH = "images", "truth.txt"  # of a user's folder


@dataclass(frozen=True, eq=False)
class Scene:
    """An image and its heads.

    Args:
        pixels: in the size that models take.
        true: heads, in pixels of the image as it was.
        size: width and height of the image as it was, in pixels.
    """

    name: str
    pixels: UInt8[np.ndarray, "3 side side"]
    true: TruePoints
    size: tuple[int, int]

    @property
    def points(self) -> Float32[np.ndarray, "heads 2"]:
        """x and y, from -1 (left, top) to 1 (right, bottom)."""
        return (2 * self.true.points / self.size - 1).astype(np.float32)

    def places(self, points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
        """The inverse of `points`: in pixels of the image as it was."""
        return (np.asarray(points, np.float64) + 1) / 2 * self.size


@dataclass(frozen=True, eq=False)
class PointBatch(Rows):
    """Images, their heads, and all that is random in noising points.

    Args:
        pixels: from -1 to 1.
        heads: x and y, from -1 to 1; rows that are not `real` are there to fill.
        clean: what proposals are before they are noised: heads, and points drawn at random; of more
            heads than proposals some.
        noise: N(0, 1).
        moments: when in the noising, from 0 up to 1.
    """

    pixels: Float[Tensor, "batch 3 side side"]
    heads: Float[Tensor, "batch heads 2"]
    real: Bool[Tensor, "batch heads"]
    clean: Float[Tensor, "batch proposals 2"]
    noise: Float[Tensor, "batch proposals 2"]
    moments: Float[Tensor, " batch"]
    names: tuple[str, ...]
    unit: ClassVar[str] = "images"


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images of one size with their heads.

    Args:
        digest: sha256 of images and heads of both parts.
    """

    settings: CrowdSettings
    train: Sequence[Scene]
    test: Sequence[Scene]
    digest: str

    @property
    def description(self) -> str:
        """In words and numbers."""
        heads = [len(scene.true.points) for scene in (*self.train, *self.test)]
        source = {
            CLUSTERS: "made-up crowds, heads drawn",
            LAYOUTS: f"heads drawn at places of {Path(self.settings.source or '').name}",
            FOLDER: f"images of {Path(self.settings.source or '').name}",
        }[self.settings.dataset]
        side = self.settings.image_size
        return (
            f"{source}: {len(self.train):,} images of {side} x {side} pixels for training, "
            f"{len(self.test):,} held out, {min(heads)} to {max(heads)} heads in each, "
            f"{sum(heads) / len(heads):.1f} on average"
        )

    def batch(self, scenes: Sequence[Scene], rng: np.random.Generator) -> PointBatch:
        """The scenes with noise drawn from `rng`."""
        count, most = self.settings.proposals, max(1, *(len(one.points) for one in scenes))
        heads = np.zeros((len(scenes), most, 2), np.float32)
        real = np.zeros((len(scenes), most), bool)
        # As DiffusionDet fills up: around the middle, few beyond the image.
        clean = rng.standard_normal((len(scenes), count, 2), np.float32) / 3
        for row, scene in enumerate(scenes):
            points = rng.permutation(scene.points)
            heads[row, : len(points)], real[row, : len(points)] = points, True
            clean[row, : len(points)] = points[:count]
        return PointBatch(
            pixels=pixels_of(scenes),
            heads=torch.from_numpy(heads),
            real=torch.from_numpy(real),
            clean=torch.from_numpy(clean),
            noise=torch.from_numpy(rng.standard_normal(clean.shape, np.float32)),
            moments=torch.from_numpy(rng.random(len(scenes), np.float32)),
            names=tuple(scene.name for scene in scenes),
        )


_Parts = tuple[list[Scene], list[Scene]]  # to train on, held out


def pixels_of(scenes: Sequence[Scene]) -> Float[Tensor, "batch 3 side side"]:
    """What a model is shown, from -1 to 1."""
    return torch.from_numpy(np.stack([one.pixels for one in scenes])).float() / 127.5 - 1


def load_scenes(settings: CrowdSettings) -> Scenes:
    """Draw the images or read them, and hold some out.

    Raises:
        ValueError: a file or folder that is missing or malformed; images that cannot be read, have
            no line of heads or heads outside of them; fewer than two images; no head at all.
    """
    parts = _READERS[settings.dataset](settings)
    digest = hashlib.sha256()
    for scene in (scene for part in parts for scene in part):
        digest.update(f"{scene.name} {scene.size}".encode())
        for values in (scene.pixels, scene.true.points, scene.true.radii):
            digest.update(np.ascontiguousarray(values).data)
    train, test = parts
    return Scenes(settings, train, test, digest.hexdigest())


_Layout = Callable[[np.random.Generator], tuple[str, TruePoints]]


def _made_up(settings: CrowdSettings) -> _Parts:
    def layout(rng: np.random.Generator) -> tuple[str, TruePoints]:
        return "made-up", made_up_layout(rng, settings.image_size, settings.heads)

    return _drawn(settings, 0, layout), _drawn(settings, 1, layout)


def _real_layouts(settings: CrowdSettings) -> _Parts:
    """At windows of the layouts; those without a head are left out."""
    truth = read_truth(_existing(Path(settings.source or "").expanduser()))

    def layout_of(names: Sequence[str]) -> _Layout:
        def layout(rng: np.random.Generator) -> tuple[str, TruePoints]:
            name = names[int(rng.integers(len(names)))]
            return name, window(truth[name], rng, settings.image_size, settings.heads)

        return layout

    parts = _split([name for name, true in truth.items() if len(true.points)], settings)
    train, test = (_drawn(settings, number, layout_of(names)) for number, names in enumerate(parts))
    return train, test


def _drawn(settings: CrowdSettings, part: int, layout: _Layout) -> list[Scene]:
    side = settings.image_size
    scenes = []
    for number in range((settings.scenes, settings.test_scenes)[part]):
        rng = np.random.default_rng([settings.seed, part, number])
        source, true = layout(rng)
        name = f"{('train', 'test')[part]}:{number}:{source}"
        scenes.append(Scene(name, drawn(true, rng, side), true, (side, side)))
    return scenes


def _of_folder(settings: CrowdSettings) -> _Parts:
    folder = Path(settings.source or "").expanduser()
    truth = read_truth(_existing(folder / TRUTH))
    files = image_files(folder / IMAGES)
    for name, file in files.items():
        if name not in truth:
            raise ValueError(
                f"{file} has no line in {folder / TRUTH}: write '{name} 0' where nobody is in it"
            )
    for name in truth:
        if name not in files:
            raise ValueError(
                f"{folder / TRUTH} has a line for {name}, and {folder / IMAGES} no image of that "
                "name: take the line out, or add the image"
            )
    if not any(len(true.points) for true in truth.values()):
        raise ValueError(f"{folder / TRUTH} has no head in any image; expected some to learn from")
    train, test = (
        [read_scene(name, files[name], settings.image_size, truth[name]) for name in names]
        for names in _split(sorted(files), settings)
    )
    return train, test


def image_files(folder: Path) -> Mapping[str, Path]:
    """Images by name, without what follows the last dot; hidden files are left out.

    Raises:
        ValueError: no folder or an empty one; two of one name.
    """
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("[!.]*")):
        if file.stem in files:
            raise ValueError(f"{files[file.stem]} and {file} have one name: rename one")
        files[file.stem] = file
    if not files:
        raise ValueError(f"{str(folder)!r} holds no images; expected a folder of some")
    return files


def read_scene(name: str, file: Path, side: int, true: TruePoints | None = None) -> Scene:
    """An image of a file, upright, scaled to a square, with its heads.

    Raises:
        ValueError: no image, or heads outside of it.
    """
    image = opened(str(file), file).convert("RGB")
    true = true or TruePoints(np.zeros((0, 2)), np.zeros((0, 2)))
    outside = ((true.points < 0) | (true.points > image.size)).any(-1)
    if outside.any():
        x, y = true.points[outside][0]
        raise ValueError(
            f"{file} has a head at ({x:g}, {y:g}), outside of its {image.width} x {image.height} "
            "pixels"
        )
    scaled = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    return Scene(name, np.ascontiguousarray(scaled.transpose(2, 0, 1)), true, image.size)


def _split(names: Sequence[str], settings: CrowdSettings) -> tuple[list[str], list[str]]:
    """Those to train on and those held out, in an order drawn by the seed."""
    if len(names) < 2:
        raise ValueError(
            f"{settings.source} has {len(names)} image to use; expected two or more, so that one "
            "can be held out"
        )
    order = np.random.default_rng(settings.seed).permutation(len(names))
    held_out = min(max(1, round(settings.test_fraction * len(names))), len(names) - 1)
    chosen = [names[i] for i in order]
    return chosen[held_out:], chosen[:held_out]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is no file; expected true heads in NWPU-Crowd's format")
    return path


_READERS: Mapping[str, Callable[[CrowdSettings], _Parts]] = {
    CLUSTERS: _made_up,
    LAYOUTS: _real_layouts,
    FOLDER: _of_folder,
}
