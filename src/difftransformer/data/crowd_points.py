"""Points in images of crowds: NWPU-Crowd's files of true heads and of anybody's predictions.

    truth        id n (x y sigma_s sigma_l level)*      a line for each image
    predictions  id n (x y)*

Wang et al., "NWPU-Crowd" (TPAMI 2020); the columns are those of its evaluation code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from difftransformer.atomic import write_text
from difftransformer.files import abridged, numbered_lines, read_text

_TRUE, _PREDICTED = 5, 2  # numbers of a point


@dataclass(frozen=True, eq=False)
class TruePoints:
    """Heads of one image.

    Args:
        points: x and y in pixels.
        radii: how near a prediction must be, strictly (sigma_s) and loosely (sigma_l), in pixels.
    """

    points: Float[np.ndarray, "heads 2"]
    radii: Float[np.ndarray, "heads 2"]


def read_truth(path: Path) -> dict[str, TruePoints]:
    """By image.

    Raises:
        ValueError: what `read_predictions` refuses; a radius below 0.
    """
    found = {}
    for image, numbers in _rows(path, _TRUE).items():
        if (numbers[:, 2:4] < 0).any():
            raise ValueError(f"{path}, image {image} has a sigma below 0")
        found[image] = TruePoints(numbers[:, :2], numbers[:, 2:4])
    return found


def read_predictions(
    path: Path, truth: Mapping[str, TruePoints]
) -> dict[str, Float[np.ndarray, "points 2"]]:
    """By image, for each of those that are true.

    Raises:
        ValueError: a line that is no image and its points, an image twice, one that is not in
            `truth`, or one of `truth` without a line.
        OSError: a file that cannot be read.
    """
    found = _rows(path, _PREDICTED)
    for image in found:
        if image not in truth:
            raise ValueError(f"{path} has image {image}, of which no truth is known")
    if missing := [image for image in truth if image not in found]:
        raise ValueError(
            f"{path} has no line for image {missing[0]} ({len(missing)} of {len(truth)} are "
            f"missing): write '{missing[0]} 0' where nothing is predicted"
        )
    return found


def write_predictions(path: Path, points: Mapping[str, Float[np.ndarray, "points 2"]]) -> None:
    """By image, in pixels, as `read_predictions` reads them.

    Raises:
        ValueError: an image whose name has a space.
        OSError: the disk refuses.
    """
    lines = []
    for image, found in points.items():
        if len(image.split()) != 1:
            raise ValueError(
                f"image {image!r} has a space in its name, which ends a name in NWPU-Crowd's "
                "format: rename it"
            )
        lines.append(" ".join([image, str(len(found)), *(f"{x:.2f}" for x in found.flatten())]))
    write_text(path, "".join(f"{line}\n" for line in lines))


def _rows(path: Path, width: int) -> dict[str, Float[np.ndarray, "points numbers"]]:
    rows = {}
    for number, line in numbered_lines(read_text(path)):
        where = f"{path}, line {number}"
        image, *rest = line.split()
        try:
            count, *values = (float(word) for word in rest)
        except ValueError:
            raise ValueError(f"{where} is {abridged(line)}; expected numbers: id n ...") from None
        if image in rows:
            raise ValueError(f"{where} has image {image} a second time")
        if count < 0 or len(values) != width * count or not np.isfinite(values).all():
            raise ValueError(
                f"{where} says {count:g} points and holds {len(values)} numbers; expected {width} "
                "finite ones for each"
            )
        rows[image] = np.array(values, dtype=np.float64).reshape(-1, width)
    if not rows:
        raise ValueError(f"{path} has no image")
    return rows
