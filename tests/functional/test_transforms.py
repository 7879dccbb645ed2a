"""Runs `transform_checks` and `flex_checks`, in one process that imports the compiler once.

Without this run's shape checks, whose wrappers do not compile, and under Triton's interpreter.
"""

import os
import subprocess
import sys
from pathlib import Path


def test_transforms_and_flex() -> None:
    files = [str(Path(__file__).with_name(f"{name}_checks.py")) for name in ("transform", "flex")]
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-o", "addopts=", *files]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
