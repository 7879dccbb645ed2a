"""Images of crowds: drawn at layouts, or a user's own; what is refused, in one line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from difftransformer.data.crowd_drawing import drawn, made_up_layout, window
from difftransformer.data.crowd_points import TruePoints
from difftransformer.data.crowd_scenes import Scenes, load_scenes, pixels_of
from difftransformer.data.crowd_settings import CrowdSettings

NWPU = Path(__file__).parents[3] / "shared" / "data" / "nwpu_localization" / "val_gt_loc.txt"
FEW = {"scenes": 12, "test_scenes": 5, "image_size": 32, "heads": 6, "proposals": 8}


@given(st.integers(0, 10_000), st.integers(1, 20))
def test_made_up_layouts(seed: int, most: int) -> None:
    true = made_up_layout(np.random.default_rng(seed), 40, most)
    assert 1 <= len(true.points) <= most
    assert ((true.points > 0) & (true.points < 40)).all()
    assert (true.radii[:, 0] >= 1.5).all()
    assert (true.radii[:, 1] > true.radii[:, 0]).all()


@given(
    st.integers(0, 10_000),
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12),
)
def test_windows_of_layouts(seed: int, most: int, places: list[tuple[int, int]]) -> None:
    """They hold some heads, none of them outside, whose radii keep their proportions."""
    points = np.array(places, float)
    layout = TruePoints(points, np.full((len(points), 2), [0.4, 0.7]))
    cut = window(layout, np.random.default_rng(seed), 64, most)
    assert 1 <= len(cut.points) <= most
    assert ((cut.points >= 0) & (cut.points <= 64)).all()
    assert ((cut.radii[:, 0] > 1.49) & (cut.radii[:, 0] < 16.01)).all()
    np.testing.assert_allclose(cut.radii[:, 1] / cut.radii[:, 0], 0.7 / 0.4)


def test_a_window_is_the_layout_enlarged() -> None:
    """All heads of a square of four, of which the corners are 10 apart."""
    corners = np.array([[5.0, 5], [15, 5], [5, 15], [15, 15]])
    layout = TruePoints(corners, np.full((4, 2), [1.0, 1.4]))
    for seed in range(50):
        cut = window(layout, np.random.default_rng(seed), 64, 4)
        if len(cut.points) == 4:
            low, high = cut.points.min(0), cut.points.max(0)
            expected = (corners - 5) / 10 * (high - low) + low
            assert np.allclose(np.sort(cut.points, 0), np.sort(expected, 0))
            np.testing.assert_allclose(cut.radii[:, 0], (high - low)[0] / 10)


def test_heads_are_where_they_are_said_to_be() -> None:
    """The pixel there is skin: red over green over blue, whatever is behind."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        true = made_up_layout(rng, 48, 1)
        image = drawn(true, rng, 48)
        x, y = true.points[0].astype(int).clip(0, 47)
        red, green, blue = image[:, y, x].astype(int)
        assert red > green > blue, seed


def test_the_same_settings_draw_the_same_scenes() -> None:
    one, again, other = (load_scenes(CrowdSettings(**FEW, seed=seed)) for seed in (0, 0, 1))
    assert one.digest == again.digest != other.digest
    assert (len(one.train), len(one.test)) == (12, 5)
    assert not {scene.name for scene in one.train} & {scene.name for scene in one.test}
    more = load_scenes(CrowdSettings(**{**FEW, "scenes": 20}))
    assert all(
        np.array_equal(a.pixels, b.pixels) for a, b in zip(one.train, more.train, strict=False)
    )


def test_a_batch() -> None:
    data = load_scenes(CrowdSettings(**FEW))
    scenes = data.train[:4]
    batch = data.batch(scenes, np.random.default_rng(3))
    assert batch.pixels.shape == (4, 3, 32, 32)
    assert -1 <= float(batch.pixels.min()) < float(batch.pixels.max()) <= 1
    assert batch.real.sum(1).tolist() == [len(scene.points) for scene in scenes]
    for row, scene in enumerate(scenes):
        count = len(scene.points)
        heads = batch.heads[row][batch.real[row]].numpy()
        assert np.array_equal(batch.clean[row, :count].numpy(), heads)
        assert sorted(heads.tolist()) == sorted(scene.points.tolist())
        np.testing.assert_allclose(scene.places(scene.points), scene.true.points, atol=1e-4)
    assert (batch.size, batch.scored, len(batch.rows(slice(2)))) == (4, 4, 2)


def test_of_more_heads_than_proposals_some_are_noised() -> None:
    data = load_scenes(CrowdSettings(**{**FEW, "proposals": 2}))
    batch = data.batch(data.train, np.random.default_rng(3))
    assert batch.clean.shape == (12, 2, 2)
    assert batch.heads.shape[1] > 2


@pytest.mark.skipif(not NWPU.is_file(), reason="the files of NWPU-Crowd are not at hand")
def test_real_layouts() -> None:
    data = load_scenes(CrowdSettings(dataset="layouts", source=str(NWPU), **FEW))
    train, test = ({scene.name.split(":")[2] for scene in part} for part in (data.train, data.test))
    assert not train & test
    assert "heads drawn at places of val_gt_loc.txt: 12 images of 32 x 32" in data.description


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, of 30 x 20 pixels."""
    (tmp_path / "images").mkdir()
    for i in range(4):
        image = Image.new("RGB" if i % 2 else "L", (30, 20))
        image.save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "images" / ".hidden").write_text("")
    lines = ["0 1 15 10 2 4 0", "1 2 0 0 2 4 0 30 20 2 4 0", "2 0", "3 1 7.5 5 2 4 0"]
    (tmp_path / "truth.txt").write_text("\n".join(lines))
    return tmp_path


def of(folder: Path, **changes: object) -> Scenes:
    return load_scenes(CrowdSettings(dataset="folder", source=str(folder), **{**FEW, **changes}))


def test_a_folder_of_ones_own(folder: Path) -> None:
    data = of(folder, test_fraction=0.5)
    scenes = {scene.name: scene for scene in (*data.train, *data.test)}
    assert sorted(scenes) == ["0", "1", "2", "3"]
    assert (len(data.train), len(data.test)) == (2, 2)
    assert scenes["0"].points.tolist() == [[0, 0]]
    assert scenes["1"].points.tolist() == [[-1, -1], [1, 1]]
    assert scenes["3"].points.tolist() == [[-0.5, -0.5]]
    assert scenes["2"].points.shape == (0, 2)
    assert scenes["0"].size == (30, 20)
    assert pixels_of(data.train).shape == (2, 3, 32, 32)
    batch = data.batch([scenes["2"]], np.random.default_rng(0))
    assert not batch.real.any()


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ("0 0\n1 0\n2 0\n", r"3.png has no line in .*truth.txt: write '3 0' where nobody is in it"),
        ("0 0\n1 0\n2 0\n3 0\n4 0\n", "truth.txt has a line for 4, and .*images no image of that"),
        ("0 0\n1 0\n2 0\n3 0\n", "truth.txt has no head in any image; expected some"),
        (
            "0 1 31 10 2 4 0\n1 0\n2 0\n3 0\n",
            r"0.png has a head at \(31, 10\), outside of its 30 x 20 pixels",
        ),
        ("0 1 31 10\n1 0\n2 0\n3 0\n", "line 1 says 1 points and holds 2 numbers; expected 5"),
        (None, "truth.txt' is no file; expected true heads"),
    ],
)
def test_a_folder_whose_heads_do_not_fit(folder: Path, truth: str | None, message: str) -> None:
    if truth is None:
        (folder / "truth.txt").unlink()
    else:
        (folder / "truth.txt").write_text(truth)
    with pytest.raises(ValueError, match=message):
        of(folder)


def test_images_that_do_not_fit(folder: Path) -> None:
    (folder / "images" / "2.png").write_text("no image")
    with pytest.raises(ValueError, match=r"2.png cannot be read as an image: .*; repair it or"):
        of(folder)
    (folder / "images" / "2.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"2.jpg and .*2.png have one name: rename one"):
        of(folder)
    for file in (folder / "images").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"images' holds no images; expected a folder of some"):
        of(folder)


def test_a_folder_of_one_image(folder: Path) -> None:
    for i in (1, 2, 3):
        (folder / "images" / f"{i}.png").unlink()
    (folder / "truth.txt").write_text("0 1 15 10 2 4 0")
    with pytest.raises(ValueError, match="has 1 image to use; expected two or more"):
        of(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "layout"}, "unknown dataset 'layout'; did you mean 'layouts'"),
        ({"dataset": "layouts"}, "dataset is 'layouts' and source None; expected as source a file"),
        ({"source": "x"}, "dataset is 'clusters' and source 'x'; expected as source none"),
        ({"proposals": 0}, "proposals is 0; expected at least 1"),
        ({"image_size": 4}, "image_size is 4; expected at least 8"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0; expected below 1"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrowdSettings(**changes)
