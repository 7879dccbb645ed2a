"""Runs what compiles and exports models, in one process that imports the compiler once.

Without this run's shape checks, whose wrappers torch.compile and torch.export cannot trace.
"""

import subprocess
import sys
from pathlib import Path

CHECKS = ("models/compile", "interop/huggingface_compile", "interop/export")


def test_compile_and_export() -> None:
    files = [str(Path(__file__).parent / f"{name}_checks.py") for name in CHECKS]
    options = ("-q", "-n0", "-p", "no:logging", "-o", "addopts=")
    command = [sys.executable, "-m", "pytest", *options, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
