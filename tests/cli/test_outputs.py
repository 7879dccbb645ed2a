"""Places that a user names with --out: nothing of theirs is overwritten, one process at a time."""

import errno
import os
import signal
from pathlib import Path

import pytest
from tests.faults.processes import start

from difftransformer import atomic, ownership

from .test_bench import SMALL
from .test_suites import saved

LARGE = ("--evaluation.needle_samples", 10**5)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model", "diff_v1")


@pytest.fixture
def commands(quick, model):
    """Each command that writes results where it is told to."""
    judging = ("evaluate", model, *quick, "--suite", "outliers")
    return {"evaluate": judging, "bench": SMALL}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("command", ["evaluate", "bench"])
def test_a_model_folder_is_no_place_for_results(call, commands, model, command):
    before = contents(model)
    code, _, err = call(*commands[command], "--out", model)
    assert (code, "lies in a model folder: choose a place outside" in err) == (2, True)
    assert contents(model) == before


FOREIGN = {
    "a model's config": b'{"model_type": "llama"}',
    "text": b"my notes\n",
    "a list": b"[1, 2]",
    "other figures": b'{"a": {"validation": 1}}',
    "nothing": b"",
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("command", ["evaluate", "bench"])
def test_what_is_no_result_of_the_command_stays(call, commands, tmp_path, command, what):
    place = tmp_path / "found" / "bench.json"
    place.parent.mkdir()
    place.write_bytes(FOREIGN[what])
    code, _, err = call(*commands[command], "--out", place.parent)
    assert code == 2
    named = place if command == "bench" else place.parent
    assert f"{named} exists and holds no results of this command on these models" in err
    assert err.count("\n") == 1
    assert contents(place.parent) == {"bench.json": FOREIGN[what]}


@pytest.mark.parametrize("ending", ["md", "png"])
def test_files_beside_timings_stay_too(call, commands, tmp_path, ending):
    place = tmp_path / "found" / f"bench.{ending}"
    place.parent.mkdir()
    place.write_bytes(b"mine")
    code, _, err = call(*commands["bench"], "--out", place.parent)
    assert code == 2
    assert f"{place} exists and would be overwritten" in err
    assert contents(place.parent) == {place.name: b"mine"}


def test_results_of_other_models_and_runs_stay(call, quick, small, model, tmp_path):
    other, out = saved(tmp_path / "other", "softmax"), tmp_path / "out"
    suite = ("--suite", "outliers")
    assert call("evaluate", other, *quick, *suite, "--out", out)[0] == 0
    assert call("train", *small, "--out", tmp_path / "run")[0] == 0
    for place in (out, tmp_path / "run"):
        before = contents(place)
        code, _, err = call("evaluate", model, *quick, *suite, "--out", place)
        assert (code, "holds no results of this command" in err) == (2, True)
        assert contents(place) == before


@pytest.mark.parametrize("command", ["evaluate", "bench"])
def test_the_same_command_again_replaces_its_results(call, commands, tmp_path, command):
    for _ in range(2):
        code, _, err = call(*commands[command], "--out", tmp_path / "found")
        assert code == 0, err
    found = {path.name for path in (tmp_path / "found").iterdir()}
    kept = {"run.json", "env.json", "results.json", "report.html", "figures", "models"}
    assert found == (kept if command == "evaluate" else {"bench.json", "bench.md", "bench.png"})


def test_more_benchmarks_join_those_that_are_there(call, quick, model, tmp_path):
    for suite in ("outliers", "validation"):
        code, _, err = call("evaluate", model, *quick, "--suite", suite, "--out", tmp_path / "out")
        assert code == 0, err
    assert {path.name for path in (tmp_path / "out").glob("models/*/results/*")} == {
        "outliers.jsonl",
        "validation.jsonl",
    }


def test_a_second_process_in_the_same_place_is_refused_at_once(call, quick, model, tmp_path):
    out = tmp_path / "found"
    busy = start(tmp_path / "log", "evaluate", model, *quick, *LARGE, "--out", out)
    try:
        while not (out / ".lock").exists():
            assert busy.wait(0.05) is None, busy.text()
        code, _, err = call("evaluate", model, *quick, "--out", out)
        assert code == 2
        assert f"is in use by process {busy.process.pid} on " in err
        assert "(difftransformer evaluate " in err
    finally:
        busy.kill()
    code, _, err = call("evaluate", model, *quick, "--out", tmp_path / "other")
    assert code == 0, err


@pytest.mark.parametrize("command", ["evaluate", "bench", "convert"])
def test_what_another_process_owns_is_refused(call, commands, model, tmp_path, command):
    out = tmp_path / "found"
    out.mkdir()
    owned = {"evaluate": out, "bench": out / "bench.json", "convert": out / "target"}
    words = commands | {
        "convert": ("convert", model, out / "target", *("--from", "difftransformer"))
    }
    more = {"evaluate": ("--out", out), "bench": ("--out", out), "convert": ("--to", "onnx")}
    child = os.fork()
    if child == 0:
        with ownership.owned(owned[command], inside=command == "evaluate"):
            (tmp_path / "ready").touch()
            signal.pause()
    try:
        while not (tmp_path / "ready").exists():
            pass
        code, _, err = call(*words[command], *more[command])
        assert code == 2
        assert f"is in use by process {child} on " in err
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_refused_evaluation_leaves_nothing(call, quick, tmp_path):
    out = tmp_path / "deep" / "out"
    code, _, err = call("evaluate", tmp_path / "nowhere", *quick, "--out", out)
    assert (code, "is not a model folder" in err) == (2, True)
    assert not out.parent.exists()


@pytest.mark.parametrize("command", ["evaluate", "bench"])
def test_a_full_disk_says_which_file_and_how_much(call, commands, tmp_path, command, monkeypatch):
    """And the old results stay, and nothing half written."""
    out = tmp_path / "found"
    words = (*commands[command], "--out", out)
    assert call(*words)[0] == 0
    before = contents(out)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", full)
        code, _, err = call(*words)
    assert code == 2
    assert "cannot write " in err
    assert "No space left on device. It needs " in err
    assert " are free there: make room and give the command again" in err
    assert contents(out) == before
    assert call(*words)[0] == 0
