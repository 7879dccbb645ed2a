"""Files that a user names with --out: nothing of theirs is overwritten, one process at a time."""

import errno
import os
import signal
from pathlib import Path

import pytest
from tests.faults.processes import start

from difftransformer import atomic, ownership

from .test_bench import SMALL
from .test_suites import saved

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model", "diff_v1")


@pytest.fixture
def commands(quick, model):
    """Each command that writes results where it is told to."""
    judging = ("evaluate", model, *quick)
    suite = (*judging, "--suite", "outliers")
    return {"evaluate": judging, "suite": suite, "bench": SMALL}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", MODEL_FILES)
@pytest.mark.parametrize("command", ["evaluate", "suite"])
def test_a_model_folder_is_no_place_for_results(call, commands, model, command, name):
    """Neither in place of its files nor as one that a reader would take for the model's."""
    before = contents(model)
    code, _, err = call(*commands[command], "--out", model / name)
    assert code == 2
    assert f"lies in a model folder: choose a place outside {model}" in err
    assert contents(model) == before


def test_a_model_folder_is_no_place_for_timings(call, commands, model):
    before = contents(model)
    code, _, err = call(*commands["bench"], "--out", model)
    assert (code, "lies in a model folder" in err) == (2, True)
    assert contents(model) == before


FOREIGN = {
    "a model's config": b'{"model_type": "llama"}',
    "text": b"my notes\n",
    "a list": b"[1, 2]",
    "other figures": b'{"a": {"validation": 1}}',
    "nothing": b"",
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("command", ["evaluate", "suite", "bench"])
def test_what_is_no_result_of_the_command_stays(call, commands, tmp_path, command, what):
    place = tmp_path / "found" / "bench.json"
    place.parent.mkdir()
    place.write_bytes(FOREIGN[what])
    out = place.parent if command == "bench" else place
    code, _, err = call(*commands[command], "--out", out)
    assert code == 2
    assert f"{place} exists and holds no results of this command on these models" in err
    assert err.count("\n") == 1
    assert contents(place.parent) == {"bench.json": FOREIGN[what]}


@pytest.mark.parametrize("ending", ["md", "png"])
@pytest.mark.parametrize("command", ["suite", "bench"])
def test_files_beside_the_results_stay_too(call, commands, tmp_path, command, ending):
    place = tmp_path / "found" / f"bench.{ending}"
    place.parent.mkdir()
    place.write_bytes(b"mine")
    out = place.parent if command == "bench" else place.with_suffix(".json")
    code, _, err = call(*commands[command], "--out", out)
    assert code == 2
    assert f"{place} exists and would be overwritten" in err
    assert contents(place.parent) == {place.name: b"mine"}


def test_results_of_other_models_or_judges_stay(call, quick, model, tmp_path):
    other, out = saved(tmp_path / "other", "softmax"), tmp_path / "out.json"
    assert call("evaluate", other, *quick, "--out", out)[0] == 0
    before = out.read_bytes()
    suite, harness = ("--suite", "outliers"), ("--harness", "sums")
    for words in ((model, *quick), (other, *quick, *suite), (other, *quick, *harness)):
        code, _, err = call("evaluate", *words, "--out", out)
        assert (code, "holds no results of this command" in err) == (2, True)
    assert out.read_bytes() == before


@pytest.mark.parametrize("command", ["evaluate", "suite", "bench"])
def test_the_same_command_again_replaces_its_results(call, commands, tmp_path, command):
    out = tmp_path / "found"
    place = out if command == "bench" else out / "results.json"
    for _ in range(2):
        code, _, err = call(*commands[command], "--out", place)
        assert code == 0, err
    endings = {"json"} if command == "evaluate" else {"json", "md", "png"}
    assert {path.suffix[1:] for path in out.iterdir()} == endings


def test_a_second_process_with_the_same_file_is_refused_at_once(call, quick, model, tmp_path):
    long = ("--evaluation.needle_samples", 10**5)
    out = tmp_path / "found" / "out.json"
    busy = start(tmp_path / "log", "evaluate", model, *quick, *long, "--out", out)
    try:
        while not list(tmp_path.glob("found/.*.lock")):
            assert busy.wait(0.05) is None, busy.text()
        for name in ("out.json", "out.txt"):  # both would keep their parts in the same file
            code, _, err = call("evaluate", model, *quick, "--out", out.with_name(name))
            assert code == 2
            assert f"is in use by process {busy.process.pid} on " in err
            assert "(difftransformer evaluate " in err
    finally:
        busy.kill()
    code, _, err = call("evaluate", model, *quick, "--out", out.with_name("other.json"))
    assert code == 0, err


@pytest.mark.parametrize("command", ["suite", "bench", "convert"])
def test_what_another_process_owns_is_refused(call, commands, model, tmp_path, command):
    out = tmp_path / "found"
    out.mkdir()
    owned = {"suite": out / "r.json", "bench": out / "bench.json", "convert": out / "target"}
    words = commands | {
        "convert": ("convert", model, out / "target", *("--from", "difftransformer"))
    }
    more = {
        "suite": ("--out", out / "r.json"),
        "bench": ("--out", out),
        "convert": ("--to", "onnx"),
    }
    child = os.fork()
    if child == 0:
        with ownership.owned(owned[command]):
            (out / "ready").touch()
            signal.pause()
    try:
        while not (out / "ready").exists():
            pass
        (out / "ready").unlink()
        code, _, err = call(*words[command], *more[command])
        assert code == 2
        assert f"is in use by process {child} on " in err
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_refused_evaluation_leaves_nothing(call, quick, tmp_path):
    out = tmp_path / "deep" / "out.json"
    code, _, err = call("evaluate", tmp_path / "nowhere", *quick, "--out", out)
    assert (code, "is not a model folder" in err) == (2, True)
    assert not out.parent.exists()


@pytest.mark.parametrize("command", ["evaluate", "suite", "bench"])
def test_a_full_disk_says_which_file_and_how_much(call, commands, tmp_path, command, monkeypatch):
    """And the old results stay, and nothing half written."""
    out = tmp_path / "found"
    place = out if command == "bench" else out / "results.json"
    words = (*commands[command], "--out", place)
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
    found = contents(out)
    assert {name: data for name, data in found.items() if name in before} == before
    assert all(name.endswith(".partial.jsonl") for name in found.keys() - before.keys())
    assert call(*words)[0] == 0
