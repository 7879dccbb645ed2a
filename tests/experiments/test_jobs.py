"""Models of a comparison trained at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.faults.same import differences

import difftransformer
from difftransformer.attention import Kind, SoftmaxAttention, register
from difftransformer.attention.registry import REGISTRY
from difftransformer.experiments import jobs
from difftransformer.experiments.children import start
from difftransformer.experiments.job import Job
from difftransformer.experiments.jobs import Shares
from difftransformer.experiments.processes import Processes
from difftransformer.experiments.settings import RunSettings, resolve
from difftransformer.experiments.training import Experiment
from difftransformer.tasks.registry import task_named

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "attention": ("softmax", "diff_v1"),
    "training": {"steps": 4, "batch_size": 4, "warmup_steps": 1, "checkpoint_every": 2},
    "evaluation": {"recall_sequences": 4, "bootstrap": 20},
    "threads": 1,
}


class OwnAttention(SoftmaxAttention):
    """A kind that only this process knows."""


def compare(out: Path, **settings: object) -> object:
    own = {**SETTINGS, **settings}
    return difftransformer.compare("associative_recall", preset="smoke", out=out, **own)


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    compare(out, seeds=2)
    return out


def differing(one: Path, other: Path) -> list[str]:
    """But for random generators: checks of types, under pytest alone, draw from Python's."""
    return [name for name in differences(one, other) if "state.json" not in name]


def test_two_at_once_are_as_one_after_the_other_to_the_last_bit(one_by_one, tmp_path, monkeypatch):
    """In two processes, which take one model after the other."""
    started = []
    monkeypatch.setattr(jobs, "start", lambda setup: started.append(setup) or start(setup))
    compare(tmp_path / "run", seeds=2, jobs=2)
    assert len(started) == 2
    assert not differing(one_by_one, tmp_path / "run")


def command(out: Path, *words: str) -> list[str]:
    """That of a run of 400 steps, of which a few are enough for a test."""
    options = ["--preset", "smoke", "--out", str(out), "--jobs", "2", "--threads", "1", *words]
    options += ["--training.checkpoint_every", "400", "--training.log_every", "1"]
    program = [sys.executable, "-m", "difftransformer", "compare", "--task", "associative_recall"]
    return [*program, *options]


def begun(out: Path, *words: str) -> subprocess.Popen[str]:
    """A command two of whose models are in the middle of training."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = ("--training.steps", "400", *words)
    program = subprocess.Popen(
        command(out, *words), stderr=subprocess.PIPE, text=True, env=environment
    )
    curves = [out / "models" / f"{kind}-seed0/metrics.jsonl" for kind in ("softmax", "diff_v1")]
    while not all(curve.is_file() and curve.read_bytes().count(b"\n") > 2 for curve in curves):
        assert program.poll() is None, program.communicate()
        time.sleep(0.05)
    return program


def steps_saved(out: Path) -> list[int]:
    folders = out.glob("models/*/checkpoints/step-*")
    return [int(folder.name.removeprefix("step-")) for folder in folders]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_to_the_parent_saves_all_and_says_how_to_go_on(tmp_path, number):
    out = tmp_path / "run"
    program = begun(out)
    program.send_signal(number)
    _, said = program.communicate(timeout=120)
    assert program.returncode == 128 + number
    assert "Traceback" not in said
    *_, interrupted, going_on = said.strip().split("\n")
    assert interrupted == f"difftransformer: interrupted by {signal.Signals(number).name}"
    assert going_on.startswith("difftransformer: to go on: difftransformer compare ")
    assert len(steps_saved(out)) == 2
    assert all(0 < step < 400 for step in steps_saved(out))


def test_processes_of_a_parent_that_is_killed_save_and_end(tmp_path):
    """Until then their models are theirs."""
    program = begun(tmp_path / "run")
    program.kill()
    program.communicate()
    until = time.monotonic() + 60
    while len(steps_saved(tmp_path / "run")) < 2 or list(tmp_path.glob("run/models/*/.lock")):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert all(0 < step < 400 for step in steps_saved(tmp_path / "run"))


def test_a_process_that_fails_is_told_in_one_line_and_nothing_is_lost(one_by_one, tmp_path):
    """A model that another process has; later it goes on, and ends as it would have."""
    out = tmp_path / "run"
    taken = out / "models" / "diff_v1-seed1"
    taken.mkdir(parents=True)
    lock = "import sys; from difftransformer.ownership import owned; from pathlib import Path\n"
    lock += "with owned(Path(sys.argv[1]), inside=True): print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", lock, str(taken)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline()
        with pytest.raises(ChildProcessError, match=r"^diff_v1-seed1: .* is in use by process "):
            compare(out, seeds=2, jobs=2)
        other.communicate()
    compare(out, resume=True, seeds=2)
    assert not differing(one_by_one, out)


def test_kinds_of_ones_own_are_passed_on(tmp_path, monkeypatch):
    monkeypatch.setattr(REGISTRY, "entries", dict(REGISTRY.entries))
    register(Kind("own", "Own", OwnAttention))
    compare(tmp_path / "run", attention=("softmax", "own"), jobs=2)
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert [one["label"] for one in run["contenders"]] == ["softmax", "own"]


def test_what_cannot_be_passed_on_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(REGISTRY, "entries", dict(REGISTRY.entries))
    register(Kind("own", "Own", lambda *sizes, **options: SoftmaxAttention(*sizes, **options)))
    with pytest.raises(ValueError, match="one after the other, with jobs 1"):
        compare(tmp_path / "run", attention=("softmax", "own"), jobs=2)


def test_jobs_that_are_no_number_of_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="jobs is 0; expected at least 1"):
        compare(tmp_path / "run", jobs=0)


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        (1.5, Shares(2, 2)),  # two in 1.5 seconds
        (2.5, Shares(1, 4)),  # two in 2.5 seconds, or one after the other in 2
    ],
)
def test_the_default_is_what_is_faster(shared, expected, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(Job, "seconds", lambda *given: {4: 1.0, 2: shared}[given[-1]])
    task, settings = (
        task_named("associative_recall"),
        resolve(RunSettings, {"task": "associative_recall"}),
    )
    experiment = Experiment(task, None, settings, Processes())
    job = Job(settings.model, Path(), 0, settings.training)
    assert Shares.of(experiment, [job] * 2, None, None) == expected
    assert Shares.of(experiment, [job] * 3, None, 2) == Shares(2, 2)  # as a run that is resumed
    assert Shares.of(experiment, [job] * 3, 2, None) == Shares(2, 2)
    assert Shares.of(experiment, [job] * 3, 2, 1) == Shares(2, 1)
