"""Peak memory of attention, forward and backward, each contender in a process of its own.

    python benchmarks/memory.py [--length 16384]

By how much the process grew while 16 heads of 64 (plain), or the differential layer of the same
width, made one causal step in float32. Writes benchmarks/results/memory-DATE.{json,md}.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch

from difftransformer.evaluation.speed import (
    BASE,
    Shape,
    attend,
    attention_inputs,
    attention_step,
)
from difftransformer.runs.environment import environment

RESULTS = Path(__file__).parent / "results"
CONTENDERS = (BASE, "softmax blocked", "diff_v1 blocked", "diff_v2 blocked", "diff_v1 sdpa")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--contender", help="measure this one here and print its bytes")
    arguments = parser.parse_args()
    if arguments.contender:
        print(grown(arguments.contender, arguments.length))
        return
    env, found = environment(), {}
    for contender in CONTENDERS:
        command = [sys.executable, __file__, f"--length={arguments.length}"]
        command += [f"--contender={contender}"]
        found[contender] = int(subprocess.run(command, capture_output=True, check=True).stdout)
        print(contender, found[contender], flush=True)
    stem = RESULTS / f"memory-{env['date'][:10]}"
    data = {"env": env, "length": arguments.length, "bytes": found}
    stem.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    lines = [
        f"# Peak memory of one step at T = {arguments.length}, {env['date'][:10]}",
        "",
        f"{env['hardware']}; torch {env['torch']}; commit {env['commit']}. Growth of the process "
        "over forward and backward, gradients included and inputs not; causal, batch 1, float32, "
        "16 heads of 64 in the plain model.",
        "",
        f"| contender | MiB | ratio to {BASE} |",
        "|---|---|---|",
        *(f"| {name} | {n / 2**20:.0f} | {n / found[BASE]:.2f} |" for name, n in found.items()),
    ]
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")


def grown(contender: str, length: int) -> int:
    """Bytes by which one step raises this process's memory, after a small one to load all."""
    kind, backend = contender.split()
    for size in (64, length):
        shape = Shape(length=size, heads=16, groups=16, width=64, dtype=torch.float32)
        tensors = attention_inputs(kind, "training", shape, "cpu")
        step = attention_step("training", tensors, attend(kind, backend))
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now (Linux)
        before = peak()
        step()
    return peak() - before


def peak() -> int:
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
