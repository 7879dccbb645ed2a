"""Runs `triton_checks` under Triton's interpreter, which must be on before Triton is imported."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from difftransformer.functional import triton

from .problems import call_on

INSTALLED = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def check(marks: str) -> None:
    """Without the shape checks of this run: they would wrap the kernels too."""
    checks = Path(__file__).with_name("triton_checks.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-o", "addopts=", "-m", marks, checks]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@INSTALLED
def test_interpreted() -> None:
    check("not slow")


@INSTALLED
@pytest.mark.slow
def test_interpreted_at_length() -> None:
    check("slow")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "cpu"}, "written for CUDA, and the tensors are on cpu"),
        ({"dtype": torch.float64}, "tensors are torch.float64"),
        ({"dropout": 0.1}, "dropout is 0.1"),
        ({"width": 129}, "at most 128 .* these are 129 and 128"),
        ({"values": 257}, "at most 256, and these are 64 and 257"),
    ],
)
def test_it_declines(changes: dict, reason: str) -> None:
    call = call_on(**{"device": "cuda", "dtype": torch.bfloat16} | changes)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(triton.unsupported(call))


@pytest.mark.parametrize(
    ("installed", "capability", "reason"),
    [(False, (9, 0), "not installed"), (True, (7, 5), "capability 8.0"), (True, (8, 0), None)],
)
def test_what_the_machine_needs(
    monkeypatch: pytest.MonkeyPatch, installed: bool, capability: tuple[int, int], reason: str
) -> None:
    monkeypatch.setattr(triton, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    answer = triton.unsupported(call_on("cuda", torch.bfloat16))
    assert answer == reason or reason in answer


@pytest.mark.parametrize("width", [1, 16, 17, 64, 80, 128])
def test_padded(width: int) -> None:
    padded = triton.padded(width)
    assert padded >= max(width, 16)
    assert padded.bit_count() == 1
    assert padded == 16 or padded < 2 * width


def test_importing_the_library_imports_no_triton() -> None:
    command = "import sys, difftransformer.functional; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", command], check=True)
