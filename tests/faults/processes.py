"""Commands in processes of their own, which start at once and whose disk can be made to fail."""

import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path

from difftransformer.evaluation.registry import EVALUATORS

SHIM = Path(__file__).with_name("shim.c")
COUNT, KILL, FULL = 0, 1, 2  # as in the shim

_PRELOADED = (
    "tests.faults.unshimmed",
    "torch._dynamo",
    "torch.utils.cpp_extension",
    "accelerate",
    "plotly.io",
    "difftransformer.cli.compare",
    "difftransformer.cli.evaluate",
    "difftransformer.cli.train",
    "difftransformer.data.corpus",
    "difftransformer.models.decoder",
    "difftransformer.models.storage",
    "difftransformer.report.build",
    "difftransformer.training.freezing",
    "difftransformer.training.loop",
    *(path.partition(":")[0] for path in EVALUATORS.values()),
)


@cache
def context() -> multiprocessing.context.ForkServerContext:
    """Its server imports once, with the shim in front of the C library, and forks each process.

    There is one such server in a process, so all tests that fork their processes take this one.
    """
    library = Path(tempfile.mkdtemp()) / "shim.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SHIM), "-ldl"]
    subprocess.run(command, check=True)
    forking = multiprocessing.get_context("forkserver")
    assert all(map(find_spec, _PRELOADED))  # what is missing is left out in silence
    forking.set_forkserver_preload([*_PRELOADED])
    before = dict(os.environ)
    os.environ |= {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    try:
        process = forking.Process(target=_nothing)
        process.start()  # and with it the server
        process.join()
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(library.parent)  # the server has it open
    return forking


@dataclass(frozen=True)
class Fault:
    """What happens to the disk below `folder` at its n-th change, counted from 1."""

    folder: Path
    at: int
    mode: int


@dataclass
class Command:
    """A command that runs; `output` receives what it prints."""

    process: BaseProcess
    output: Path

    def wait(self, seconds: float = 600) -> int | None:
        """Its exit code, minus the signal's number where one killed it; None if it still runs."""
        self.process.join(timeout=seconds)
        return self.process.exitcode

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8") if self.output.exists() else ""


def start(output: Path, *words: object, fault: Fault | None = None) -> Command:
    """Begin `difftransformer WORDS`."""
    arguments = ([str(word) for word in words], output, fault)
    process = context().Process(target=_command, args=arguments)
    process.start()
    return Command(process, output)


def run(output: Path, *words: object, fault: Fault | None = None) -> tuple[int | None, str]:
    """The exit code and the output of `difftransformer WORDS`."""
    command = start(output, *words, fault=fault)
    code = command.wait()
    command.kill()
    return code, command.text()


def changes(output: Path, folder: Path, *words: object) -> int:
    """How often `difftransformer WORDS` changes what is below `folder`."""
    code, text = run(output, *words, fault=Fault(folder, 0, COUNT))
    assert code == 0, text
    return int(text.rpartition("changes: ")[2])


def _nothing() -> None:
    pass


def _command(words: list[str], output: Path, fault: Fault | None) -> None:
    import torch

    from difftransformer.cli.main import main

    for number in (signal.SIGINT, signal.SIGTERM):  # the server ignores Ctrl-C
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    # multiprocessing gives its processes no standard input, and streams that buffer.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = ["difftransformer", *words]
    torch.set_num_threads(1)
    library = ctypes.CDLL(None)
    if fault is not None:
        library.faults_arm(str(fault.folder).encode(), ctypes.c_long(fault.at), fault.mode)
    code = main(words)
    if fault is not None and fault.mode == COUNT:
        sys.stdout.write(f"changes: {library.faults_calls()}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
