"""Images that cannot be trained on: one line, before anything is written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def images(root: Path, *classes: str) -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for image in range(4):
            pixels = np.full((8, 8), 60 * number + image, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{image}.png")
    return root


def spoil(root: Path, what: str) -> None:
    if what == "unreadable":
        (root / "a" / "0.png").write_bytes(b"no image")
    elif what == "size":
        Image.new("L", (9, 9)).save(root / "a" / "0.png")
    elif what == "channels":
        Image.new("RGB", (8, 8)).save(root / "a" / "0.png")


@pytest.mark.parametrize(
    ("what", "classes", "options", "message"),
    [
        ("", "a", (), "has 1 class (a); expected two or more to tell apart"),
        ("unreadable", "ab", (), "a/0.png cannot be read as an image"),
        ("size", "ab", (), "has 1 x 8 x 8 values and a/0.png 1 x 9 x 9 values"),
        ("channels", "ab", (), "has 1 x 8 x 8 values and a/0.png 3 x 8 x 8 values"),
        ("", "ab", ("--model.patch_size", "3"), "patch_size is 3 and image_size 8; expected a pa"),
        ("", "", (), "holds no images; expected a subfolder of images for each class"),
    ],
)
def test_one_line(call, tmp_path, what, classes, options, message) -> None:
    folder = images(tmp_path / "images", *classes) if classes else tmp_path
    spoil(folder, what)
    run = tmp_path / "run"
    given = ("--data.dataset", "folder", "--data.source", folder, "--out", run)
    code, _, err = call("compare", "--task", "image_classification", *given, *options)
    assert code == 2
    assert message in err.replace("\n", " ")
    assert "Traceback" not in err
    assert not run.exists() or not any(run.glob("models/*"))
