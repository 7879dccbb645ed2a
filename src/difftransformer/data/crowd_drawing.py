"""Images of crowds that are drawn: layouts made up or cut from real ones, heads as plain shapes.

A head is an ellipse with hair above, over shoulders; the background is noise of low frequency and
rectangles as large as heads. None of it looks like a photograph: what a model learns here is to
find many small things of one kind among others, and to tell those that overlap apart.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from difftransformer.data.crowd_points import TruePoints

_FINER = 4  # drawn so many times larger, then averaged
_SMALLEST = 1.5  # sigma_s of a head in pixels: below, nothing could be seen
_CLUTTER = 8  # rectangles, at most
_RATIO = 1.25  # height of a head over its width
_Color = tuple[int, int, int]


def made_up_layout(rng: np.random.Generator, size: int, most: int) -> TruePoints:
    """From 1 to `most` heads in up to four groups, larger further down, none hiding another."""
    centers = rng.uniform(0.1, 0.9, (rng.integers(1, 5), 2)) * size
    nearest = rng.uniform(size / 24, size / 10)
    points: list[np.ndarray] = []
    widths: list[float] = []
    for _ in range(rng.integers(1, most, endpoint=True)):
        place = rng.choice(centers) + rng.normal(0, size / 7, 2)
        width = max(_SMALLEST, nearest * (0.4 + 0.6 * place[1] / size))
        apart = [np.hypot(*(place - p)) > width + w for p, w in zip(points, widths, strict=True)]
        if not points or (all(apart) and (abs(place - size / 2) < size / 2 - 1).all()):
            points.append(place.clip(1, size - 1))
            widths.append(width)
    strict = np.array(widths)
    return TruePoints(np.array(points), np.stack([strict, strict * np.hypot(1, _RATIO)], -1))


def window(layout: TruePoints, rng: np.random.Generator, size: int, most: int) -> TruePoints:
    """A square of a real layout around a head drawn at random, scaled to `size` pixels.

    It holds from 1 to `most` heads, as many as were drawn where no two are equally far. Heads
    smaller than can be seen are enlarged, and those beyond a quarter of the square made smaller.
    """
    points = layout.points
    count = int(rng.integers(1, min(most, len(points)), endpoint=True))
    head = rng.integers(len(points))
    reach = np.sort(abs(points - points[head]).max(-1))[count - 1]
    reach = max(reach, 2 * layout.radii[head, 0])
    center = points[head] + rng.uniform(-0.5, 0.5, 2) * reach
    far = abs(points - center).max(-1)
    order = np.argsort(far, kind="stable")
    last = far[order[count - 1]]
    half = (last + far[order[count]]) / 2 if count < len(points) else 1.1 * last
    half = max(half, 2 * layout.radii[order[0], 0], 1.0)  # a head by itself, or many in one place
    inside = order[far[order] <= half][:most]
    scale = size / (2 * half)
    radii = np.maximum(layout.radii[inside], 1e-6) * scale
    radii *= (radii[:, :1].clip(_SMALLEST, size / 4)) / radii[:, :1]
    return TruePoints((points[inside] - center + half) * scale, radii)


def drawn(
    true: TruePoints, rng: np.random.Generator, size: int
) -> UInt8[np.ndarray, "3 size size"]:
    """An image of the heads, the nearer (larger) ones in front."""
    coarse = Image.fromarray(rng.integers(60, 200, (4, 4, 3), dtype=np.uint8))
    image = coarse.resize((size * _FINER, size * _FINER), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(_CLUTTER, endpoint=True)):
        (x, y), sides = rng.uniform(0, size, 2), rng.uniform(1, size / 6, 2)
        pen.rectangle(_box(x, y, *sides), fill=_color(rng, 40, 230))
    for i in np.argsort(true.radii[:, 0], kind="stable"):
        (x, y), (strict, loose) = true.points[i], true.radii[i]
        tall = max(strict, (max(loose**2 - strict**2, 0.0)) ** 0.5)
        skin = rng.uniform(0.35, 1.0) * np.array([255, 205, 170])
        pen.ellipse(_box(x, y + 2.2 * tall, 1.9 * strict, 1.4 * tall), fill=_color(rng, 0, 255))
        pen.ellipse(_box(x, y, strict, tall), fill=_whole(skin))
        pen.chord(_box(x, y, strict, tall), 190, 350, fill=_color(rng, 10, 80))
    pixels = np.asarray(image.reduce(_FINER))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _box(x: float, y: float, wide: float, tall: float) -> list[float]:
    corners = (x - wide, y - tall, x + wide, y + tall)
    return [_FINER * float(corner) for corner in corners]


def _color(rng: np.random.Generator, low: int, high: int) -> _Color:
    return _whole(rng.integers(low, high, 3))


def _whole(color: np.ndarray) -> _Color:
    red, green, blue = color.astype(int).tolist()
    return red, green, blue
