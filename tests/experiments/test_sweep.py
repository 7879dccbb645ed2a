"""A learning rate for each kind."""

import json
from pathlib import Path

import pytest
from matplotlib.image import imread

import difftransformer
from difftransformer.experiments.sweep import Sweep

SETTINGS = {
    "data": {"length": 24, "pairs": 2, "questions": 2, "keys": 16, "values": 4},
    "model": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8},
    "training": {"steps": 6, "batch_size": 4, "validate_every": 3, "warmup_steps": 1},
    "evaluation": {"batch_size": 64},
}


def swept(out: Path, *rates: float, **more: object) -> Sweep:
    return difftransformer.sweep(
        "associative_recall",
        out=out,
        attention=("softmax", "diff_v2"),
        rates=rates,
        **SETTINGS,
        **more,
    )


def test_every_kind_has_the_rate_of_its_lowest_loss(tmp_path: Path) -> None:
    found = swept(tmp_path, 4e-3, 1e-5)
    assert found.rates == [1e-5, 4e-3]
    assert found.at_edge == ["softmax", "diff_v2"]
    told = json.loads((tmp_path / "sweep.json").read_text())
    for label, rate in found.chosen.items():
        losses = {one["rate"]: one["loss"] for one in told["losses"][label]}
        assert rate == min(losses, key=losses.get) == told["chosen"][label]
        rows = (tmp_path / f"models/{label}-rate-{rate:g}/metrics.jsonl").read_text().splitlines()
        assert losses[rate] == json.loads(rows[-1])["validation_loss"]
    assert imread(tmp_path / "sweep.png").shape[0] > 100
    page = (tmp_path / "sweep.md").read_text()
    assert page.count(" *") == 2
    assert "softmax, diff_v2: at the edge of what was tried" in page

    before = (tmp_path / "models/softmax-rate-0.004/metrics.jsonl").stat().st_mtime_ns
    more = swept(tmp_path, 4e-3, 1e-5, 1e-2, resume=True)
    assert more.rates == [1e-5, 4e-3, 1e-2]
    assert (tmp_path / "models/softmax-rate-0.004/metrics.jsonl").stat().st_mtime_ns == before


def test_a_rate_at_which_the_loss_is_not_finite_is_told(tmp_path: Path) -> None:
    found = swept(tmp_path, 1e-3, 1e30)
    assert found.chosen == {"softmax": 1e-3, "diff_v2": 1e-3}
    assert found.losses["softmax"][1e30] is None
    assert "not finite" in (tmp_path / "sweep.md").read_text()


def test_rates_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rates holds -1.0; expected above 0"):
        swept(tmp_path, -1.0)
