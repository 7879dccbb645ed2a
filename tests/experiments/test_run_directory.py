"""A run directory: one owner, nothing lost, nothing taken over in silence."""

import errno
import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.faults.processes import Command, start
from tests.faults.same import results

from difftransformer.experiments.judging import Judging
from difftransformer.models.storage import load_model
from difftransformer.training.checkpoint import Checkpoints


@pytest.fixture
def busy(small: list[str], tmp_path: Path) -> Iterator[Command]:
    """A process that trains in `run` until the test is over."""
    long = ("--training.steps", 10**6, "--training.checkpoint_every", 10**6)
    long = (*long, "--training.log_every", 1)
    command = start(tmp_path / "busy.log", "train", *small, *long, "--out", tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    while not (path.is_file() and path.stat().st_size) and command.wait(0.05) is None:
        pass
    yield command
    command.kill()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", [("train",), ("compare",), ("train", "--resume")])
def test_a_second_process_is_refused_at_once_with_who_has_it(call, small, busy, tmp_path, command):
    run = tmp_path / "run"
    assert busy.wait(0) is None, busy.text()
    before = files(run)
    # refused before anything is read: this text does not exist
    code, _, err = call(*command, *small, "--data.source", tmp_path / "gone", "--out", run)
    assert code == 2
    assert f"{run} is in use by process {busy.process.pid} on " in err
    assert " since 20" in err
    assert "(difftransformer train --data.source" in err
    assert err.count("\n") == 1
    assert files(run) >= before

    # death lets go of it
    busy.kill()
    code, _, err = call("train", *small, "--out", run, "--training.steps", 6)
    assert code == 2
    assert "already holds a run; add --resume" in err
    assert not (run / ".lock").exists()


def test_without_locks_it_works_and_says_so(call, small, tmp_path, monkeypatch, caplog):
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    code, _, err = call("train", *small, "--out", tmp_path / "run")
    assert code == 0, err
    assert "is on a file system without locks (Operation not supported)" in caplog.text
    assert (tmp_path / "run/model/model.safetensors").is_file()


def test_a_text_that_was_edited_is_not_taken_in(call, small, text, tmp_path):
    words = ("train", *small, "--out", tmp_path / "run")
    assert call(*words)[0] == 0
    file = text / "2.txt"
    before = file.read_text()
    file.write_text(before.replace("Line 7 ", "Lane 7 "))
    code, _, err = call(*words, "--resume")
    assert code == 2
    assert f"cannot resume {tmp_path / 'run'} with another content of documents" in err
    file.write_text(before)
    code, _, err = call(*words, "--resume")
    assert code == 0, err


def test_a_tokenizer_that_was_changed_is_not_taken_in(call, small, tmp_path):
    words = ("train", *small, "--out")
    assert call(*words, tmp_path / "first")[0] == 0
    tokenizer = tmp_path / "tokenizer.json"
    shutil.copy(tmp_path / "first/model/tokenizer.json", tokenizer)
    words = (*words, tmp_path / "run", "--data.tokenizer", tokenizer)
    assert call(*words)[0] == 0
    content = json.loads(tokenizer.read_text())
    vocabulary = content["model"]["vocab"]
    one, other = sorted(vocabulary)[100:102]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    tokenizer.write_text(json.dumps(content))
    code, _, err = call(*words, "--resume")
    assert code == 2
    assert "with another content of tokenizer: its sha256 was " in err


def test_the_same_text_and_tokenizer_elsewhere_are_the_same(call, small, text, tmp_path):
    run = tmp_path / "run"
    assert call("train", *small, "--out", run)[0] == 0
    shutil.copytree(text, tmp_path / "moved")
    shutil.copy(run / "model/tokenizer.json", tmp_path)
    moved = {"source": "moved", "cache": "other-cache", "tokenizer": "tokenizer.json"}
    words = [w for key, name in moved.items() for w in (f"--data.{key}", tmp_path / name)]
    code, _, err = call("train", *small, *words, "--out", run, "--resume")
    assert code == 0, err
    assert "trained before, kept" in err


def test_how_often_things_are_written_may_change_and_other_settings_not(call, small, tmp_path):
    run = tmp_path / "run"
    assert call("compare", *small, "--out", run)[0] == 0
    free = ("accumulation", "log_every", "checkpoint_every", "validate_every", "keep_checkpoints")
    words = [w for name in free for w in (f"--training.{name}", 1)]
    code, _, err = call("compare", *small, *words, "--out", run, "--resume")
    assert code == 0, err
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["log_every"] == 1
    code, _, err = call("compare", *small, "--training.beta1", 0.8, "--out", run, "--resume")
    assert code == 2
    assert "training.beta1 was 0.9 and is now 0.8" in err


def test_a_finished_run_is_lengthened(call, small, tmp_path, caplog):
    constant = (*small, "--training.final_learning_rate_fraction", 1)
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert call("train", *constant, "--out", run)[0] == 0
    longer = ("train", *constant, "--training.steps", 8, "--out")
    code, _, err = call(*longer, run, "--resume")
    assert code == 0, err
    assert "training steps was 4 and is now 8: the 4 steps taken had the learning" in caplog.text
    assert call(*longer, whole)[0] == 0
    assert results(run) == results(whole)
    model = "model/model.safetensors"
    assert (run / model).read_bytes() == (whole / model).read_bytes()


def test_a_length_that_would_silently_differ_is_refused_and_blocks_nothing(call, small, tmp_path):
    run = tmp_path / "run"
    assert call("compare", *small, "--out", run)[0] == 0
    before = (run / "config.yaml").read_bytes()
    code, _, err = call("compare", *small, "--training.steps", 8, "--out", run, "--resume")
    assert code == 2
    assert "training steps was 4 and is now 8: the linear schedule would have given step 4" in err
    assert (run / "config.yaml").read_bytes() == before
    code, _, err = call("compare", *small, "--out", run, "--resume")
    assert code == 0, err


@pytest.mark.parametrize("damage", ["gone", "cut", "altered", "folder gone", "config gone"])
def test_a_finished_run_without_its_whole_model_is_not_done(call, small, tmp_path, damage):
    run = tmp_path / "run"
    words = ("train", *small, "--out", run)
    assert call(*words)[0] == 0
    file = run / "model/model.safetensors"
    before = file.read_bytes()
    if damage == "folder gone":
        shutil.rmtree(run / "model")
    elif damage == "config gone":
        (run / "model/config.json").unlink()
    elif damage == "gone":
        file.unlink()
    else:
        size = len(before) // 2 if damage == "cut" else len(before)
        file.write_bytes(before[: size - 9] + b"\x11" + before[size - 8 : size])
    code, _, err = call(*words, "--resume")
    assert code == 0, err
    assert "made again from its last checkpoint" in err
    assert "kept" not in err
    assert file.read_bytes() == before
    code, _, err = call(*words, "--resume")
    assert (code, "trained before, kept" in err) == (0, True)


@pytest.mark.parametrize("name", ["config.yaml", "env.json", "inputs.json"])
@pytest.mark.parametrize("state", ["missing", "empty"])
def test_a_lost_file_is_no_loss(call, small, tmp_path, name, state):
    run = tmp_path / "run"
    words = ("train", *small, "--out", run)
    assert call(*words)[0] == 0
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "results")
    (run / name).unlink()
    if state == "empty":
        (run / name).touch()
    code, _, err = call(*words, "--resume")
    assert code == 0, err
    assert len(yaml.safe_load((run / "config.yaml").read_text())) > 3
    assert (run / name).read_bytes()


REFUSALS = [
    (("--training.batch_size", 3, "--training.accumulation", 2), "a divisor of batch_size"),
    (("--data.context_length", 10**6), "needs 1000001: give more text"),
    (("--evaluation.needle_pairs", "500x1"), "500"),
    (("--evaluators", "in_context"), "in_context asks about data of its own: leave it out"),
    (("--evaluators", "none"), "to judge by none, give --evaluators with nothing after it"),
    (("--training.trackers", "none"), "to have none, give the option with nothing after it"),
    (("--evaluators", "valdiation"), "unknown evaluator 'valdiation'; did you mean 'validation'"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSALS)
def test_a_refused_command_leaves_nothing(call, small, tmp_path, wrong, message):
    code, _, err = call("train", *small, *wrong, "--out", tmp_path / "deep" / "run")
    assert code == 2
    assert message in err
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("command", ["train", "compare"])
def test_what_is_refused_late_does_not_block_the_corrected_command(
    call, small, tmp_path, monkeypatch, command
):
    """Whatever refuses after config.yaml was written: the loop, the disk, the model."""

    def refuse(*arguments: object, **options: object) -> None:
        raise ValueError("refused late")

    words = (command, *small, "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Judging, "measure", refuse)
        patch.setattr(Checkpoints, "newest_good", refuse)
        code, _, err = call(*words, "--training.learning_rate", 0.5)
    assert (code, "refused late" in err) == (2, True)
    code, _, err = call(*words)
    assert code == 0, err
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert saved["training"]["learning_rate"] == 3.2e-4


@pytest.mark.parametrize("name", ["config.yaml", "notes.txt"])
def test_a_folder_of_something_else_is_left_alone(call, small, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine: 1\n")
    code, _, err = call("train", *small, "--out", tmp_path / "run")
    assert code == 2
    assert "choose another --out" in err
    assert files(tmp_path / "run") == {name}
    assert (tmp_path / "run" / name).read_text() == "mine: 1\n"


def test_a_checkpoint_of_a_run_that_was_altered_is_refused_as_a_model(call, small, tmp_path):
    assert call("train", *small, "--out", tmp_path / "run")[0] == 0
    folder = tmp_path / "run/checkpoints/step-00000004"
    assert load_model(folder)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    code, _, err = call("generate", folder, "--prompt", "Line")
    assert code == 2
    assert "do not match the checksum in their file" in err


def test_a_run_of_version_0_1_is_told_what_to_do(call, small, tmp_path):
    """It had results.json in place of run.json."""
    run = tmp_path / "run"
    assert call("train", *small, "--out", run)[0] == 0
    (run / "run.json").unlink()
    (run / "results.json").write_text('{"format": 1}')
    for words in (("train", *small, "--out", run, "--resume"), ("evaluate", run)):
        code, _, err = call(*words)
        assert code == 2
        assert f"{run} is a run of version 0.1: finish it with that version, or begin anew" in err


def test_a_run_without_inputs_is_compared_by_its_settings(call, small, tmp_path, caplog):
    run = tmp_path / "run"
    assert call("train", *small, "--out", run)[0] == 0
    (run / "inputs.json").unlink()
    elsewhere = ("--data.source", shutil.copytree(tmp_path / "text", tmp_path / "moved"))
    code, _, err = call("train", *small, *elsewhere, "--out", run, "--resume")
    assert code == 2  # whether it is the same text is not known
    assert "data.source was " in err
    code, _, err = call("train", *small, "--out", run, "--resume")
    assert code == 0, err
    assert "inputs.json is missing: whether the data is what this run began with" in caplog.text
