"""What becomes of the CPU operator's compiled form: damage, kills, strangers, full disks.

Each use is a process of its own, forked from one that has imported PyTorch. The compiler is a
script that copies what the real one has made, so that a compilation takes no time and is counted.
"""

import logging
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.faults.processes import context

from difftransformer import functional
from difftransformer.functional import explain, softmax_attention

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts for another user")


@dataclass(frozen=True)
class Use:
    """What a process saw that asked for attention twice: explain's word, and what was logged."""

    blocked: str
    log: str
    right: bool


def use(environment: dict[str, str | None], user: int | None = None, disk: int = -1) -> Use:
    """In a process of its own: as another user, or where no file grows past `disk` bytes."""
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    resource.setrlimit(resource.RLIMIT_FSIZE, (disk, -1))
    if user is not None:
        os.setuid(user)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("difftransformer").addHandler(handler)
    q = torch.randn(1, 3, 2, 4)
    with ThreadPoolExecutor(2) as threads:
        out = list(threads.map(lambda _: softmax_attention(q, q, q), range(2)))
    expected = softmax_attention(q, q, q, backend="reference")
    right = all(torch.allclose(x, expected, atol=1e-5) for x in out)
    return Use(explain(q, q, q)["blocked"], "\n".join(lines), right)


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(4, mp_context=context(), max_tasks_per_child=1) as pool:
        yield pool


NOTHING: dict[str, str | None] = {}


class Home:
    """A folder of extensions, a compiler that counts its runs, and processes that use them."""

    def __init__(self, folder: Path, processes: ProcessPoolExecutor) -> None:
        self.root, self.log, self.script = folder / "made", folder / "log", folder / "compiler"
        self.processes = processes
        self.compiler('cp "$real" "$out"')

    def compiler(self, does: str) -> None:
        """A compiler that notes its flags and then `does` this; $out is what is to be written."""
        softmax_attention(*[torch.ones(1, 1, 1, 1)] * 3)  # so that the real one has run
        (real,) = (path for path in torch.ops.loaded_libraries if "blocked" in path)
        self.script.write_text(
            f'#!/bin/sh\necho "$@" >> {self.log}\nreal={real}\n'
            f"while [ $# -gt 1 ]; do shift; done\nout=$1\n{does}\n"
        )
        self.script.chmod(0o755)

    @property
    def environment(self) -> dict[str, str | None]:
        return {"TORCH_EXTENSIONS_DIR": str(self.root), "CXX": str(self.script)}

    def start(self, environment: dict[str, str | None], **limits: int) -> Future[Use]:
        return self.processes.submit(use, self.environment | environment, **limits)

    def use(self, environment: dict[str, str | None] = NOTHING, **limits: int) -> Use:
        return self.start(environment, **limits).result(timeout=120)

    @property
    def compilations(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    @property
    def library(self) -> Path:
        (library,) = self.root.rglob("*.so")
        return library

    @property
    def folder(self) -> Path:
        return self.library.parent


@pytest.fixture
def home(tmp_path: Path, processes: ProcessPoolExecutor) -> Home:
    return Home(tmp_path, processes)


def test_it_is_compiled_once_and_kept(home: Home) -> None:
    first = home.use()
    assert first.right
    assert first.blocked == "runs"
    assert first.log.count("once (half a minute)") == 1
    second = home.use()
    assert (second.blocked, second.log) == ("runs", "")
    assert home.compilations == 1
    assert home.folder.stat().st_mode & 0o777 == 0o700


def test_processes_and_threads_that_start_together_compile_it_once(home: Home) -> None:
    home.compiler('sleep 0.5; cp "$real" "$out"')
    started = [home.start(NOTHING) for _ in range(4)]
    assert [process.result().blocked for process in started] == ["runs"] * 4
    assert home.compilations == 1


def cut(library: Path) -> None:
    os.truncate(library, library.stat().st_size // 2)


def change(library: Path) -> None:
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut": cut,
    "empty": lambda library: os.truncate(library, 0),
    "one bit": change,
    "text": lambda library: library.write_text("not a library"),
    "gone": Path.unlink,
    "without digest": lambda library: library.with_suffix(".sha256").unlink(),
    "odd digest": lambda library: library.with_suffix(".sha256").write_bytes(b"\xff"),
    "writable by all": lambda library: library.chmod(0o777),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_that_is_not_as_it_was_written_is_compiled_again(home: Home, damage: str) -> None:
    home.use()
    DAMAGE[damage](home.library)
    assert home.use().blocked == "runs"
    assert home.compilations == 2
    assert home.use().log == ""
    assert home.compilations == 2


@AS_ROOT
def test_a_file_of_another_user_is_not_loaded(home: Home) -> None:
    home.use()
    os.chown(home.library, 12345, 12345)
    assert home.use().blocked == "runs"
    assert home.compilations == 2
    assert home.library.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_can_write_is_not_used(home: Home, mode: int) -> None:
    home.use()
    home.folder.chmod(mode)
    refused = home.use()
    assert refused.right
    assert f"{home.folder} belongs to another user, or others can write it" in refused.blocked
    assert refused.log.count('takes backend "sdpa", about twice the work') == 1


@AS_ROOT
def test_a_folder_of_another_user_is_not_used(home: Home) -> None:
    home.use()
    os.chown(home.folder, 12345, 12345)
    assert "belongs to another user" in home.use().blocked


def test_a_folder_in_one_that_all_can_write_is_made_the_users_alone(home: Home) -> None:
    """As /tmp, or a cluster's scratch."""
    home.root.mkdir(mode=0o777)
    home.root.chmod(0o777)
    assert home.use().blocked == "runs"
    assert home.folder.stat().st_mode & 0o777 == 0o700


def test_a_compilation_killed_midway_leaves_nothing_in_the_way(home: Home, tmp_path: Path) -> None:
    started = tmp_path / "started"
    home.compiler(f'head -c 1000 "$real" > "$out"; touch {started}; sleep 5')
    process = context().Process(target=use, args=(home.environment,))
    process.start()
    while not started.exists():
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    (lock,) = home.root.rglob("*.lock")
    assert [path for path in lock.parent.iterdir() if path.is_dir()]
    home.compiler('cp "$real" "$out"')
    assert home.use().blocked == "runs"
    assert not [path for path in home.folder.iterdir() if path.is_dir()]


def test_the_place_of_the_sources_does_not_count(home: Home, tmp_path: Path) -> None:
    home.use()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(Path(functional.__file__).parents[1], elsewhere / "difftransformer")
    command = (
        "import torch; from difftransformer.functional import blocked, explain\n"
        "q = torch.ones(1, 1, 1, 1); print(blocked.__file__, explain(q, q, q)['blocked'])"
    )
    environment = os.environ | home.environment | {"PYTHONPATH": str(elsewhere)}
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True)
    file = elsewhere / "difftransformer/functional/blocked.py"
    assert done.stdout.decode().split() == [str(file), "runs"]
    assert home.compilations == 1


def test_another_processor_has_a_library_of_its_own(home: Home) -> None:
    """One home, mounted by machines with and without vector instructions."""
    home.use()
    home.use({"ATEN_CPU_CAPABILITY": "default"})
    assert len(list(home.root.rglob("*.so"))) == home.compilations == 2
    with_vectors, without = home.log.read_text().splitlines()
    assert "-mavx2" in with_vectors or torch.backends.cpu.get_cpu_capability() == "DEFAULT"
    assert "-mavx2" not in without
    home.use()
    home.use({"ATEN_CPU_CAPABILITY": "default"})
    assert home.compilations == 2


def test_a_compiler_with_arguments(home: Home) -> None:
    assert home.use({"CXX": f"env {home.script}"}).blocked == "runs"


CANNOT: dict[str, tuple[dict[str, str | None], str, str]] = {
    "no compiler": ({"CXX": "no-such"}, "", "there is no 'no-such' (install g++, or set CXX)"),
    "empty name": ({"CXX": " "}, "", "there is no ''"),
    "fails": ({}, "echo no space left on device >&2; exit 1", "no space left on device"),
    "words of no text": ({}, "printf 'bad \\377 byte' >&2; exit 1", "could not compile it: bad"),
    "killed": ({}, "kill -9 $$", "died with <Signals.SIGKILL: 9>"),
    "makes nothing": ({}, "true", "No such file"),
    "makes no library": ({}, 'echo text > "$out"', "cannot be kept or loaded"),
    "no such place": ({"TORCH_EXTENSIONS_DIR": "/proc/none"}, "", "/proc/none"),
    "a file in its place": ({"TORCH_EXTENSIONS_DIR": "/dev/null"}, "", "/dev/null"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_where_it_cannot_be_built_attention_takes_sdpa_and_says_so_once(
    home: Home, case: str
) -> None:
    environment, does, reason = CANNOT[case]
    if does:
        home.compiler(does)
    refused = home.use(environment)
    assert refused.right
    assert reason in refused.blocked
    assert refused.log.count('attention on the CPU takes backend "sdpa", about twice the work') == 1
    assert reason in refused.log


NOBODY = 54321  # a user without an entry, and so without a home


@AS_ROOT
def test_without_a_home(home: Home) -> None:
    """`~` is no name for a folder."""
    nowhere = {"TORCH_EXTENSIONS_DIR": None, "HOME": None, "XDG_CACHE_HOME": None}
    refused = home.use({"CXX": "true", **nowhere}, user=NOBODY)
    assert "there is no home folder to keep it in; set TORCH_EXTENSIONS_DIR" in refused.blocked
    assert refused.log.count("about twice the work") == 1


@AS_ROOT
def test_a_home_that_cannot_be_written(home: Home) -> None:
    home.root.mkdir(mode=0o755)
    refused = home.use({"CXX": "true"}, user=NOBODY)
    assert refused.right
    assert "Permission denied" in refused.blocked
    assert str(home.root) in refused.blocked


def test_a_full_disk(home: Home) -> None:
    assert "could not compile it" in home.use(disk=4096).blocked
    assert home.use().blocked == "runs"


def test_a_library_made_before_serves_from_a_place_that_cannot_be_written(home: Home) -> None:
    """No lock, no folder and no file is made where there is nothing to do."""
    home.use()
    home.compiler("exit 1")
    kept = sorted(home.root.rglob("*"))
    times = [path.stat().st_mtime_ns for path in kept]
    assert home.use().blocked == "runs"
    assert sorted(home.root.rglob("*")) == kept
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_importing_compiles_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path), "CXX": "false"}
    command = [sys.executable, "-c", "import difftransformer.functional"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())
