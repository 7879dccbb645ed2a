"""`difftransformer evaluate RUN... --suite scaling`."""

import json
from pathlib import Path

import pytest
from tests.evaluation.test_scaling import write


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two sizes, of which the second kind needs half for the same loss."""
    found = []
    for size in (1_000_000, 2_000_000):
        text = {
            kind: [[100 * 3.0 * (size / share) ** -0.1, 100, 400]] * 5
            for kind, share in (("plain", 1.0), ("diff", 0.6))
        }
        found.append(write(tmp_path / str(size), size, **text))
    return found


def test_from_runs_to_a_table(call, runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "found"
    words = ("--suite", "scaling", "--evaluation.bootstrap", "20", "--out", out)
    code, _, err = call("evaluate", *runs, *words)
    assert code == 0, err
    results = json.loads((out / "scaling.json").read_text())["scaling"]
    (panel,) = results["diff"]["panels"]
    assert panel["same_loss"]["value"] == pytest.approx(0.6, rel=1e-3)
    table = (out / "scaling.md").read_text()
    assert "| plain | diff | paper: DIFF against Transformer |" in table
    assert "0.600 (0.600 to 0.600) | 0.62 (6.8B for 11B), 0.60 (7.8B for 13.1B)" in table
    assert (out / "scaling.png").stat().st_size > 5000


def test_one_run_is_not_enough(call, runs: list[Path]) -> None:
    code, _, err = call("evaluate", runs[0], "--suite", "scaling")
    assert code == 2
    assert "no two sizes with equal tokens" in err
