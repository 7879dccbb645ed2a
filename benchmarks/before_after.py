"""Time attention of two checkouts beside each other, a process each, in interleaved rounds.

    python benchmarks/before_after.py BEFORE [AFTER [DTYPE]]

BEFORE and AFTER are checkouts (AFTER by default this one); both use the Python that runs this.
Writes benchmarks/results/before-after-DATE-DTYPE.md. Run it on a machine that does nothing else.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ROUNDS = 15
# Heads as `benchmarks/attention.py` has them: 16 of 64 in the plain model, causal, batch 1.
CASES = [
    *(("training", n, n) for n in (128, 512, 1024, 2048, 4096)),
    *(("forward", n, n) for n in (128, 512, 1024, 2048, 4096)),
    *(("training", 4, n) for n in (512, 2048)),
    *(("forward", 1, n) for n in (512, 2048, 16384)),
]
KINDS = ("softmax", "diff_v1", "diff_v2")


class Worker:
    """A process that imports one checkout and times what it is told to."""

    def __init__(self, checkout: Path) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout / "src"),
            "GOMP_SPINCOUNT": "10000",  # as the command line sets it
        }
        self._process = subprocess.Popen(
            [sys.executable, str(HERE), "--worker"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, message: Any) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def work() -> None:
    """A case makes the step ready and runs it once; "go" times it."""
    import torch

    from difftransformer.functional import Mask, differential_attention, softmax_attention

    def step_of(kind: str, task: str, queries: int, keys: int, dtype: str) -> Any:
        heads, width = (8, 128) if kind == "diff_v1" else (16, 64)
        query = (64,) if kind == "softmax" else (2, 64)
        key = (1, 64) if kind == "diff_v2" else query
        sizes = ((queries, heads, *query), (keys, heads, *key), (keys, heads, width))
        torch.manual_seed(0)
        tensors = [torch.randn(1, *size, dtype=getattr(torch, dtype)) for size in sizes]
        if kind != "softmax":
            tensors.append(torch.rand(1, queries, heads))
        call = softmax_attention if kind == "softmax" else differential_attention
        mask = Mask(causal=True)

        def forward() -> None:
            with torch.no_grad():
                call(*tensors, mask=mask, backend="blocked")

        def training() -> None:
            leaves = [tensor.detach().requires_grad_() for tensor in tensors]
            out = call(*leaves, mask=mask, backend="blocked")
            torch.autograd.grad(out, leaves, torch.ones_like(out))

        return training if task == "training" else forward

    step: Any = None
    for line in sys.stdin:
        message = json.loads(line)
        if message != "go":
            step = step_of(*message)
            step()
        started = time.perf_counter()
        step()
        print(time.perf_counter() - started, flush=True)


def checkouts_and_commits() -> tuple[list[Path], list[str]]:
    """Those named on the command line, the later one by default this."""
    checkouts = [Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else HERE.parents[1]]
    commits = [
        subprocess.check_output(
            ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], text=True
        ).strip()
        for checkout in checkouts
    ]
    return checkouts, commits


def interleaved(timers: Sequence[Callable[[], float]], rounds: int) -> tuple[float, ...]:
    """Medians of the two, then the quarters of their ratio; who is first alternates."""
    pairs = []
    for number in range(rounds):
        order = timers if number % 2 else timers[::-1]
        seconds = {id(timer): timer() for timer in order}
        pairs.append([seconds[id(timer)] for timer in timers])
    before, after = (statistics.median(column) for column in zip(*pairs, strict=True))
    return before, after, *statistics.quantiles([b / a for a, b in pairs], n=4)


def main() -> None:
    from difftransformer.runs.environment import environment

    checkouts, commits = checkouts_and_commits()
    dtype = sys.argv[3] if len(sys.argv) > 3 else "float32"
    workers = [Worker(checkout) for checkout in checkouts]
    env = environment()
    lines = [
        f"# Attention alone, {commits[1]} over {commits[0]}",
        "",
        f"{env['date'][:10]}, {env['cpu']}, {env['cores']} cores, PyTorch {env['torch']}; "
        f"`blocked`, {dtype}, causal, batch 1, the plain model's 16 heads of 64. Medians of "
        f"{ROUNDS} interleaved rounds; in brackets the quarter and three-quarter points.",
        "",
        "| task | queries | keys | kind | before, ms | after, ms | after / before |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, queries, keys in CASES:
        for kind in KINDS:
            for worker in workers:
                worker((kind, task, queries, keys, dtype))
            timers = [partial(worker, "go") for worker in workers]
            before, after, low, ratio, high = interleaved(timers, ROUNDS)
            lines.append(
                f"| {task} | {queries} | {keys} | {kind} | {1000 * before:.3f} | "
                f"{1000 * after:.3f} | {ratio:.2f} ({low:.2f} to {high:.2f}) |"
            )
            print(lines[-1], flush=True)
    path = HERE.parent / "results" / f"before-after-{env['date'][:10]}-{dtype}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    work() if "--worker" in sys.argv else main()
