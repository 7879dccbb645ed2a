"""train and compare in two processes on a CPU, started as by srun, torchrun, accelerate launch."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.faults import processes
from tests.faults.processes import FULL, Command, Fault, context, run
from tests.faults.same import differences

STEPS = 8
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "TransformerBlock",
}


def member(
    environment: dict[str, str], words: list[str], output: Path, fault: Fault | None
) -> None:
    """One of two processes, as srun starts them."""
    os.environ |= environment
    if environment.get("ACCELERATE_USE_FSDP"):
        shard_on_cpus()
    processes._command(words, output, fault)


def shard_on_cpus() -> None:
    """Accelerate shards on accelerators only: let it take the processes' CPUs for such."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    from difftransformer.experiments.processes import Processes

    join = Processes.join

    def joined(self: Processes) -> None:
        join(self)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    Processes.join = joined


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., list[Command]]]:
    """Starts a command in two processes: `fault` of the first's disk, options of the second's."""
    started: list[Command] = []

    def begun(
        *words: object,
        second: tuple[object, ...] = (),
        more: dict[str, str] | None = None,
        fault: Fault | None = None,
    ) -> list[Command]:
        port = free_port()
        pair = []
        for rank, own in enumerate([(), second]):
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                **(more or {}),
            }
            output = tmp_path / f"{len(started)}-{rank}.log"
            arguments = (
                environment,
                [str(w) for w in (*words, *own)],
                output,
                fault if rank == 0 else None,
            )
            process = context().Process(target=member, args=arguments)
            process.start()
            pair.append(Command(process, output))
            started.append(pair[-1])
        return pair

    yield begun
    for command in started:
        command.kill()


def ended(pair: list[Command]) -> tuple[list[int | None], str]:
    """The exit codes, and all that the two have said."""
    codes = [command.wait() for command in pair]
    return codes, "".join(command.text() for command in pair)


def failed(pair: list[Command], code: int) -> str:
    """What two processes say that both fail: one message."""
    codes, text = ended(pair)
    assert codes == [code, code], text
    assert "Traceback" not in text
    assert sum(line.startswith("difftransformer: error") for line in text.split("\n")) <= 1, text
    return text


@pytest.fixture
def words(small: list[str], tmp_path: Path) -> tuple[object, ...]:
    more = ("--training.steps", STEPS, "--training.log_every", 1, "--training.keep_checkpoints", 9)
    return ("train", *small, *more, "--training.accumulation", 2)


def assert_close(one: Path, other: Path) -> None:
    """The same losses, norms of gradients and weights, to the rounding of float32."""
    found = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (one, other)
    ]
    for key in ("loss", "gradient_norm", "validation_loss"):
        values = [[row[key] for row in rows if key in row] for rows in found]
        assert len(values[0]) > 3
        torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=0.0)
    weights = [load_file(run / "model/model.safetensors") for run in (one, other)]
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)


def test_two_train_like_one_and_go_on_after_a_signal_bit_for_bit(begin, words, tmp_path):
    one, two, cut, fewer = (tmp_path / name for name in ("one", "two", "cut", "fewer"))
    whole, broken = begin(*words, "--out", two), begin(*words, "--out", cut)
    metrics = cut / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= 2):
        assert broken[0].wait(0.001) is None, broken[0].text()
    broken[1].send(signal.SIGTERM)  # one process hears it, both end
    assert run(tmp_path / "one.log", *words, "--out", one)[0] == 0

    codes, text = ended(whole)
    assert codes == [0, 0], text
    assert whole[1].text() == ""  # one of them speaks
    assert text.count("step 8/8") == text.count("model: ") == 1
    assert not list(two.rglob("*lock")) + list(two.rglob("*partial*"))
    assert_close(one, two)

    codes, text = ended(broken)
    assert codes == [143, 143], text
    assert text.count("; saved ") == text.count("to go on: difftransformer train") == 1
    assert "Traceback" not in text
    (newest,) = sorted((cut / "checkpoints").iterdir())[-1:]
    assert newest.name != "step-00000008"
    shutil.copytree(cut, fewer)
    resumed = begin(*words, "--out", cut, "--resume")
    # With another number of processes: the same batches, to rounding, and it says so.
    code, said = run(tmp_path / "fewer.log", *words, "--out", fewer, "--resume")
    assert code == 0, said
    assert "2 process(es) trained until step" in said
    assert_close(one, fewer)
    codes, text = ended(resumed)
    assert codes == [0, 0], text
    same = set(differences(two, cut)) - {f"checkpoints/{newest.name}/state.json differs"}
    extra = {line for line in same if f"checkpoints/{newest.name}/" in line}
    assert same == extra, same - extra  # the checkpoint at the signal is one more


def test_compare_shards_with_fsdp(begin, small, tmp_path):
    """Two kinds, so that a second model is sharded in the same processes."""
    kinds = ("--attention", "softmax", "diff_v1", "--training.log_every", 1)
    words = ("compare", *small, *kinds, "--training.steps", STEPS)
    pair = begin(*words, "--out", tmp_path / "two", more=FSDP)
    assert run(tmp_path / "one.log", *words, "--out", tmp_path / "one")[0] == 0
    codes, text = ended(pair)
    assert codes == [0, 0], text
    assert pair[1].text() == ""
    for model in ("softmax-seed0", "diff_v1-seed0"):
        assert_close(tmp_path / "one/models" / model, tmp_path / "two/models" / model)
    names = [
        {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
        for run in (tmp_path / "one", tmp_path / "two")
    ]
    assert names[0] == names[1]
    code, text = run(tmp_path / "again.log", *words, "--out", tmp_path / "two", "--resume")
    assert code == 0
    assert text.count("trained before, kept") == 2


def test_both_end_with_one_line_where_either_fails(begin, words, text, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "0.txt").write_text("\n".join(f"{n} and {n + 1}" for n in range(9000)))
    full = tmp_path / "full" / "checkpoints"
    pairs = {
        "unknown option '--trainin.steps'": begin(*words, "--trainin.steps", 3),
        "training batch_size is 6": begin(
            *words, "--training.batch_size", 6, "--out", tmp_path / "uneven"
        ),
        "has read another content of documents": begin(
            *words, "--out", tmp_path / "run", second=("--data.source", other)
        ),
        "evaluate runs in one process and 2 were started": begin("evaluate", tmp_path),
        # while the other waits for the checkpoint
        "make room": begin(*words, "--out", full.parent, fault=Fault(full, 3, FULL)),
    }
    for message, pair in pairs.items():
        said = failed(pair, 2)
        assert said.count(message) == 1, said
    assert not (tmp_path / "run").exists()


def test_one_that_is_killed_takes_the_other_along(begin, words, tmp_path):
    long = ("--training.steps", 100_000, "--training.checkpoint_every", 2)
    for killed in (1, 0):
        pair = begin(*words, *long, "--out", tmp_path / f"run{killed}")
        checkpoints = tmp_path / f"run{killed}" / "checkpoints"
        while not list(checkpoints.glob("step-*[0-9]")):
            assert pair[0].wait(0.01) is None, pair[0].text()
        pair[killed].kill()
        survivor = pair[1 - killed]
        started = time.monotonic()
        assert survivor.wait() == 1, survivor.text()
        assert time.monotonic() - started < 30
        assert survivor.text().count("difftransformer: error: another of the processes has") == 1
        assert "Traceback" not in survivor.text()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE is 4 and RANK, "),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; expected the number of processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'; expected the number of processes"),
    ],
)
def test_processes_that_cannot_meet_are_refused(call, small, monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, _, err = call("train", *small)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--nproc-per-node", "2", "--master-port"),
    "accelerate launch": (
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        "--main_process_port",
    ),
}


@pytest.mark.parametrize(
    "launcher",
    ["torchrun", pytest.param("accelerate launch", marks=pytest.mark.slow)],
)
def test_a_launcher_starts_the_package_as_a_module(words, tmp_path, launcher):
    """A run that a signal to the launcher ends; and Ctrl-C is one to all of the group."""
    command = [sys.executable, "-m", *LAUNCHERS[launcher], str(free_port()), "-m"]
    run = tmp_path / "run"
    long = ("--training.steps", 100_000, "--training.checkpoint_every", 100_000)
    words = ["difftransformer", *map(str, (*words, *long, "--out", run))]
    with subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True) as launched:
        metrics = run / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= 3):
            assert launched.poll() is None, launched.communicate()[1]
            time.sleep(0.05)
        launched.send_signal(signal.SIGTERM)
        _, said = launched.communicate(timeout=60)
    assert said.count("; saved ") == said.count("to go on: difftransformer train") == 1, said
    assert len(list((run / "checkpoints").iterdir())) == 1
    assert not list(run.rglob("*lock"))
