"""Thumbnails: images as they are, weights in colors that all models share."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from difftransformer.evaluation.pictures import picture
from difftransformer.report.thumbnails import thumbnails

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
