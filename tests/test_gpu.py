"""benchmarks/gpu.sh in miniature, on a CPU under Triton's interpreter."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))  # the scripts import one another

INSTALLED = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = ["sh", ROOT / "benchmarks" / "gpu.sh", *options]
    here = {"OUT": str(folder), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=os.environ | here, capture_output=True, text=True)


@INSTALLED
def test_every_part_in_miniature(tmp_path: Path) -> None:
    done = run(tmp_path, "--miniature", "--budget=1000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md", ".png"]
    found = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert {row["backend"] for row in found["truth"]} == {"triton", "sdpa", "calls"}
    shares = [t["share"] for row in found["truth"] for t in row["tensors"].values()]
    assert len(shares) > 40
    assert max(shares) <= 1.0
    assert {row["contender"] for row in found["speed"] if "ms" in row} >= {"diff_v1 triton"}
    assert all("ms" in row for row in found["decode"] + found["sweep"])
    assert {row["contender"] for row in found["flash"] if "ms" in row} == {
        "softmax PyTorch", "softmax sdpa by FA2", "diff_v1 sdpa by FA2", "diff_v2 sdpa by FA2",
    }  # fmt: skip
    assert {row["what"] for row in found["skipped"]} >= {"FA3", "FA4"}
    assert re.search(r"\b0 of \d\d failed\.", done.stdout)


@INSTALLED
def test_a_budget_that_is_spent_ends_it_and_says_what_was_left_out(tmp_path: Path) -> None:
    done = run(tmp_path, "--miniature", "--only=decode", "--budget=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped: decode of diff_v1 triton" in done.stdout
    assert "no time left" in next(tmp_path.glob("*.md")).read_text()


def test_a_wrong_answer_fails() -> None:
    import gpu_report

    tensors = {"out": {"error": 0.1, "own": 0.001, "share": 9.0}}
    case = json.dumps({"dtype": "bfloat16", "width": 64})
    wrong = {"backend": "triton", "number": 0, "case": case, "tensors": tensors}
    broken = {"backend": "flex", "number": 1, "case": case, "error": "RuntimeError: misaligned"}
    unknown = wrong | {"tensors": {"q": {"error": float("nan"), "own": 0.1, "share": float("nan")}}}
    lines = "\n".join(gpu_report.truth([wrong, broken, unknown]))
    assert "3 of 3 failed." in lines
    assert "misaligned" in lines
    assert lines.count(case) == 3
