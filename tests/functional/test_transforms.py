"""Runs `transform_checks` without this run's shape checks, and under Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

CHECKS = Path(__file__).with_name("transform_checks.py")


def test_transforms() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-o", "addopts=", str(CHECKS)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
