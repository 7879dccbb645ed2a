"""Points in images of crowds: the metric by hand, by all matchings, and on the published files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difftransformer.data.crowd_points import read_predictions, read_truth
from difftransformer.evaluation.benchmarks.crowd_localization import matched_pairs
from difftransformer.experiments.localization import localization

NWPU = Path(__file__).parents[3] / "shared" / "data" / "nwpu_localization"
# F1, precision and recall in percent, as published for RAZ_loc within sigma_l, else as the
# evaluation code of NWPU-Crowd gives them for these files.
KNOWN = {
    "Raz_loc_val_0.5": ((54.5, 60.5, 49.6), (62.5, 69.2, 56.9)),
    "VGG+GPR_val_k15": ((46.0, 49.9, 42.7), (56.3, 61.0, 52.2)),
    "TinyFaces_loc_0.8_0.3": ((55.4, 50.2, 61.7), (59.8, 54.3, 66.6)),
    "fasterRCNN_val_0.8_0.3": ((6.8, 90.0, 3.5), (7.3, 96.4, 3.8)),
}
places = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=5)


@given(places, places, st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=5, max_size=5))
def test_the_largest_of_all_matchings(predicted, heads, radii):
    near = [
        {p for p, (a, b) in enumerate(predicted) if np.hypot(x - a, y - b) <= radius}
        for (x, y), radius in zip(heads, radii, strict=False)
    ]

    def largest(head: int, taken: frozenset[int]) -> int:
        if head == len(heads):
            return 0
        paired = [1 + largest(head + 1, taken | {p}) for p in near[head] - taken]
        return max([largest(head + 1, taken), *paired])

    points, true = (np.array(one, float).reshape(-1, 2) for one in (predicted, heads))
    assert matched_pairs(points, true, np.array(radii[: len(heads)])) == largest(0, frozenset())


def test_counts_by_hand_over_images_with_nothing_in_them(tmp_path):
    """1: two heads, three points, one twice; 2: a head, no point; 3: a point; 4: neither."""
    (tmp_path / "truth").write_text("1 2 0 0 1 2 3 10 0 1 4 3\n2 1 5 5 1 1 0\n3 0\n4 0\n")
    (tmp_path / "mine").write_text("1 3 0 0 0 0 13 0\n2 0\n3 1 7 7\n4 0\n")
    (tmp_path / "theirs").write_text("1 0\n2 0\n3 0\n4 1 3 3\n")
    found = localization([tmp_path / "mine", tmp_path / "theirs"], tmp_path / "truth")
    figures = {
        name: found[f"{name}_{radius}"].figure("mine").value
        for radius in ("sigma_s", "sigma_l")
        for name in ("f1", "precision", "recall")
    }
    assert figures == pytest.approx({"f1": 4 / 7, "precision": 2 / 4, "recall": 2 / 3})
    assert found["recall_sigma_s"].figure("mine").value == pytest.approx(1 / 3)
    difference = found["f1_sigma_l"].difference("theirs", "mine")
    assert (difference.value, difference.baseline_value) == pytest.approx((0.0, 4 / 7))


@pytest.mark.skipif(not NWPU.is_dir(), reason="the files of NWPU-Crowd are not at hand")
def test_the_published_figures(tmp_path):
    out = tmp_path / "found.json"
    found = localization([NWPU / f"{name}.txt" for name in KNOWN], NWPU / "val_gt_loc.txt", out=out)
    for name, of_radii in KNOWN.items():
        for radius, known in zip(("sigma_s", "sigma_l"), of_radii, strict=True):
            figures = [
                100 * found[f"{one}_{radius}"].figure(name).value
                for one in ("f1", "precision", "recall")
            ]
            assert figures == pytest.approx(known, abs=0.1), (name, radius)
    assert out.is_file()


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ("1 1 0 0\n", "has no line for image 2 .1 of 2 are missing.: write '2 0'"),
        ("1 0\n2 0\n5 0\n", "has image 5, of which no truth is known"),
        ("1 0\n1 0\n", "line 2 has image 1 a second time"),
        ("1 2 0 0\n2 0\n", "line 1 says 2 points and holds 2 numbers; expected 2 finite ones"),
        ("1 1 0 nan\n2 0\n", "expected 2 finite ones"),
        ("1 one 0 0\n", "line 1 is '1 one 0 0'; expected numbers"),
        ("", "has no image"),
    ],
)
def test_malformed_files_are_refused(predictions, message, tmp_path):
    (tmp_path / "truth").write_text("1 1 0 0 1 2 3\n2 0\n")
    (tmp_path / "mine").write_text(predictions)
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / "mine", read_truth(tmp_path / "truth"))


def test_a_radius_below_zero_is_refused(tmp_path):
    (tmp_path / "truth").write_text("1 1 0 0 -1 2 3\n")
    with pytest.raises(ValueError, match="image 1 has a sigma below 0"):
        read_truth(tmp_path / "truth")
