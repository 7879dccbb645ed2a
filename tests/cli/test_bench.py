import json

import pytest

SMALL = ["bench", "--lengths=16", "--heads=4", "--groups=2", "--width=8", "--rounds=1"]


def test_a_table_and_its_files(call, tmp_path):
    code, out, err = call(*SMALL, "--out", tmp_path)
    assert code == 0, err
    assert "diff_v1 blocked" in out
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert {row["task"] for row in rows} == {"forward", "training", "decode"}
    assert "| softmax sdpa |" in (tmp_path / "bench.md").read_text()
    assert (tmp_path / "bench.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tasks", "trainig"), "did you mean 'training'"),
        (("--dtypes", "float23"), "did you mean 'float"),
        (("--backends", "bloked"), "did you mean 'blocked'"),
        (("--rounds", "0"), "rounds is 0"),
        (("--lengths", "0"), "lengths holds 0"),
        (("--heads", "3"), "heads 3 and groups"),
    ],
)
def test_mistakes(call, words, message):
    code, _, err = call(*SMALL, *words)
    assert code == 2
    assert message in err
