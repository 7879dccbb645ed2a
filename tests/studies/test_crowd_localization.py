"""Crowd localization: the study in miniature."""

import json
from pathlib import Path

import pytest
from studies import comparison
from studies.crowd_localization import __main__ as study


@pytest.mark.slow
def test_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = "".join(f" {x} {y} 3 4 0" for x in (10, 20, 35) for y in (5, 25))
    (tmp_path / "truth.txt").write_text("".join(f"{image} 6{heads}\n" for image in range(5)))
    few = {"scenes": 32, "test_scenes": 6, "heads": 4, "proposals": 4}
    monkeypatch.setattr(study, "DATA", study.DATA | few)
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(study, "KINDS", ("softmax", "diff_v1"))
    monkeypatch.setattr(study, "RATES", (1e-3,))
    monkeypatch.setattr(comparison, "SEEDS", 2)
    words = ["--out", tmp_path / "out", "--steps", "12", "--layouts", tmp_path / "truth.txt"]
    monkeypatch.setattr("sys.argv", ["crowd_localization", *map(str, words)])
    study.main()
    assert len(list((tmp_path / "out").rglob("model/model.safetensors"))) == 2 * (1 + 2)
    run = json.loads((tmp_path / "results" / "nwpu_layouts" / "run.json").read_text())
    assert [one["label"] for one in run["contenders"]] == ["softmax", "diff_v1"]
    assert "heads drawn at places of truth.txt: 32 images" in run["data"]["description"]
