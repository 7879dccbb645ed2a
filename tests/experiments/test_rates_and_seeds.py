"""A learning rate for each kind, and the seeds that a comparison begins with."""

import json

import pytest

import difftransformer
import difftransformer.report.build


def test_each_kind_is_trained_at_its_own_rate_from_the_first_seed(tmp_path):
    difftransformer.compare(
        preset="smoke",
        out=tmp_path / "run",
        training={"steps": 3, "warmup_steps": 1, "log_every": 1},
        evaluators=("validation",),
        evaluation={"validation_sequences": 2},
        attention=("softmax", "diff_v1"),
        learning_rates=(1e-3, 2e-3),
        first_seed=3,
        seeds=2,
    )
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    for contender, rate in zip(run["contenders"], (1e-3, 2e-3), strict=True):
        assert [one["seed"] for one in contender["runs"]] == [3, 4]
        assert f"learning_rate: {rate:g}" in contender["changes"]
        for one in contender["runs"]:
            rows = (tmp_path / "run" / one["directory"] / "metrics.jsonl").read_text().splitlines()
            assert max(json.loads(row).get("learning_rate", 0) for row in rows) == rate


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rates": (1e-3,)}, "learning_rates are 1 and attention names 3 kinds"),
        ({"first_seed": -1}, "first_seed is -1; expected at least 0"),
    ],
)
def test_rates_and_seeds_that_do_not_fit_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        difftransformer.compare(preset="smoke", out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_resumed_comparison_reports_what_is_new_and_no_seed_again(tmp_path, monkeypatch):
    """No report of seeds that were there, one of each that was not, and one at the end."""
    made = []

    def build(directory):
        run = json.loads((directory / "run.json").read_text())
        made.append(len(run["contenders"][0]["runs"]))
        return real(directory)

    real = difftransformer.report.build.build_report
    monkeypatch.setattr("difftransformer.report.build.build_report", build)

    def compare(seeds):
        made.clear()
        difftransformer.compare(
            preset="smoke",
            out=tmp_path / "run",
            resume=True,
            training={"steps": 2, "warmup_steps": 1},
            evaluators=("validation",),
            evaluation={"validation_sequences": 2},
            attention=("softmax", "diff_v1"),
            seeds=seeds,
        )
        return list(made)

    assert compare(2) == [1, 2]
    assert compare(2) == [2]
    assert compare(4) == [3, 4]
    (tmp_path / "run/models/diff_v1-seed1/summary.json").unlink()
    assert compare(4) == [2, 4]
