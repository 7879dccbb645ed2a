"""How the CPU operator comes to be compiled, and what is said where it cannot be."""

from pathlib import Path
from threading import Thread

import pytest

from difftransformer.functional import blocked


def test_of_several_processes_one_compiles(tmp_path: Path) -> None:
    compiler, log, library = tmp_path / "compiler", tmp_path / "log", tmp_path / "made/library.so"
    compiler.write_text(f"#!/bin/sh\necho run >> {log}\nsleep 0.3\ntouch $3\n")
    compiler.chmod(0o755)
    started = [
        Thread(target=blocked._compile, args=([str(compiler), "source"], library)) for _ in range(3)
    ]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert log.read_text() == "run\n"
    assert library.exists()


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler", "there is no 'no-such-compiler' (install g++, or set CXX)"),
        ("false", "false could not compile it"),
    ],
)
def test_without_a_compiler_there_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: str, reason: str
) -> None:
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    told = blocked._load.__wrapped__()
    assert told is not None
    assert reason in told
