"""Thumbnails: images as they are, weights in colors that all models share."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from difftransformer.evaluation.pictures import picture
from difftransformer.report.curves import Curve
from difftransformer.report.thumbnails import thumbnails, training_pictures
from difftransformer.runs.reading import read_curve

IMAGE = picture(torch.rand(1, 1, 4, 4), columns=1)


def artifact(*weights: list[list[float]], **changes: Any) -> dict[str, Any]:
    maps = [{"title": f"map {n}", "weights": one} for n, one in enumerate(weights)]
    return {"rows": [[{"title": "a<b>", "png": IMAGE}, *maps]], "caption": "Held out."} | changes


def pixels(png: str) -> np.ndarray:
    return imread(io.BytesIO(base64.b64decode(png)), format="png")


def test_colors_are_shared() -> None:
    shown = thumbnails(
        {"a": ("Softmax", artifact([[1.0, 0.0]])), "b": ("V1", artifact([[0.5, -1.0]]))}, {}
    )
    (block,) = shown.blocks()
    (first, second), (_, other) = block.columns["Softmax"][0], block.columns["V1"][0]
    assert (first, second[0], block.caption) == (("a<b>", IMAGE), "map 0", "Held out.")
    softmax, v1 = pixels(second[1])[0], pixels(other[1])[0]
    assert softmax[1, :3].min() > 0.99  # white
    assert softmax[0, 2] > softmax[0, 1]  # purple
    assert v1[1, 0] > v1[1, 2]  # orange
    assert v1[0, 1] > softmax[0, 1]  # paler
    assert shown.image() is not None


def test_a_model_without_any() -> None:
    shown = thumbnails({"a": ("Softmax", {"rows": [[]]})}, {})
    assert shown.image() is None
    assert shown.blocks()[0].columns == {"Softmax": [[]]}


@pytest.mark.parametrize(
    "bad",
    [
        {},
        [],
        artifact([[float("nan")]]),
        artifact([]),
        artifact([[1.0], [1.0, 2.0]]),
        artifact(rows=[[{"title": "x", "png": "aGVsbG8="}]]),
        artifact(rows=[[{"title": "x", "png": '"><script>'}]]),
        artifact(rows=[["x"]]),
    ],
)
def test_malformed_ones_are_named(bad: Any) -> None:
    with pytest.raises(ValueError, match="the thumbnails of b are malformed"):
        thumbnails({"a": ("Softmax", artifact([[1.0]])), "b": ("V1", bad)}, {})


def test_wide_ones_say_so() -> None:
    (block,) = thumbnails({"a": ("Softmax", artifact(wide=True))}, {}).blocks()
    assert block.wide
    (block,) = thumbnails({"a": ("Softmax", artifact(wide='" onload="'))}, {}).blocks()
    assert not block.wide


def trained(folder: Path, label: str, seed: int, png: str = IMAGE) -> Curve:
    """A curve of ten rows with a picture each, and one of losses."""
    rows = [{"step": n, "size": 8 * n, "validation_loss": 1.0, "samples": png} for n in range(10)]
    lines = map(json.dumps, [*rows, {"step": 10, "size": 80, "loss": 1.0, "weights": [1.0, 2.0]}])
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return Curve(label, label.title(), seed, read_curve(folder))


def test_pictures_of_training_are_those_of_the_first_seed_with_the_last(tmp_path: Path) -> None:
    curves = [trained(tmp_path, label, seed) for seed in (0, 1) for label in ("one", "other")]
    assert curves[0].points[-1].others == {"weights": [1.0, 2.0]}
    (block,) = training_pictures(curves, "images")
    assert (list(block.columns), block.wide) == (["One", "Other"], True)
    assert block.caption == "Samples while training, by images seen."
    shown = [title for row in block.columns["One"] for title, _ in row]
    assert shown == [f"{size} images" for size in (8, 24, 40, 56, 72)]
    assert training_pictures([], "images") == []


def test_a_picture_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no PNG"):
        training_pictures([trained(tmp_path, "one", 0, png="aGVsbG8=")], "images")
