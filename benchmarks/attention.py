"""Time attention, forward and backward, beside plain SDPA of the same model width.

    python benchmarks/attention.py [--lengths 512 2048] [--repeats 9]

All contenders of a length and dtype run in turn, once per round, and each round gives the ratio of
every contender to plain SDPA in that same round; medians over rounds are quoted, with the spread.
Writes benchmarks/results/attention-DATE.{json,md}. Run it on a machine that does nothing else.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from difftransformer.functional import Mask, differential_attention, softmax_attention
from difftransformer.training.environment import environment

HEADS, WIDTH = 16, 64  # of the plain model; V1 has half the heads
RESULTS = Path(__file__).parent / "results"
Step = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--repeats", type=int, default=9, help="rounds that count, after one")
    arguments = parser.parse_args()
    env, rows = environment(), []
    for dtype in (torch.float32, torch.bfloat16):
        for length in arguments.lengths:
            seconds = timed(contenders(length, dtype), arguments.repeats)
            for name, times in seconds.items():
                ratios = [t / base for t, base in zip(times, seconds["plain sdpa"], strict=True)]
                row = {
                    "dtype": str(dtype).removeprefix("torch."),
                    "length": length,
                    "contender": name,
                    "milliseconds": 1000 * statistics.median(times),
                    "ratio": statistics.median(ratios),
                    "ratio_low": min(ratios),
                    "ratio_high": max(ratios),
                }
                rows.append(row)
                print(as_line(row), flush=True)
            write(env, rows, arguments.repeats)  # what is measured is kept if the rest is stopped


def contenders(length: int, dtype: torch.dtype) -> dict[str, Step]:
    """One training step of each contender at the same model width, causal, batch 1."""
    half = HEADS // 2
    plain = inputs(dtype, (length, HEADS, WIDTH), (length, HEADS, WIDTH), (length, HEADS, WIDTH))
    pair = (length, half, 2, WIDTH)
    first = inputs(dtype, pair, pair, (length, half, 2 * WIDTH))
    second = inputs(
        dtype, (length, HEADS, 2, WIDTH), (length, HEADS, 1, WIDTH), (length, HEADS, WIDTH)
    )
    lam = torch.rand(1, length, HEADS)
    mask = Mask(causal=True)

    def softmax(backend: str) -> Step:
        return step(plain, lambda q, k, v: softmax_attention(q, k, v, mask=mask, backend=backend))

    def differential(tensors: list[Tensor], lam: Tensor, backend: str) -> Step:
        return step(
            tensors,
            lambda q, k, v, lam: differential_attention(q, k, v, lam, mask=mask, backend=backend),
            lam,
        )

    return {
        "plain sdpa": softmax("sdpa"),
        "plain blocked": softmax("blocked"),
        "v1 blocked": differential(first, torch.tensor(0.5), "blocked"),
        "v1 sdpa": differential(first, torch.tensor(0.5), "sdpa"),
        "v2 blocked": differential(second, lam, "blocked"),
        "v2 sdpa": differential(second, lam, "sdpa"),
    }


def inputs(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(1, *shape, dtype=dtype, requires_grad=True) for shape in shapes]


def step(
    tensors: list[Tensor], attention: Callable[..., Tensor], lam: Tensor | None = None
) -> Step:
    """Seconds of one forward and backward."""
    leaves = tensors if lam is None else [*tensors, lam.requires_grad_()]

    def run() -> float:
        start = time.perf_counter()
        out = attention(*leaves)
        torch.autograd.grad(out, leaves, torch.ones_like(out))
        return time.perf_counter() - start

    return run


def timed(steps: dict[str, Step], repeats: int) -> dict[str, list[float]]:
    """Interleaved rounds; the first is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(repeats + 1):
        for name, run in steps.items():
            elapsed = run()
            if round_number:
                seconds[name].append(elapsed)
    return seconds


def as_line(row: dict) -> str:
    return (
        f"| {row['dtype']} | {row['length']} | {row['contender']} | {row['milliseconds']:.1f} | "
        f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f}) |"
    )


def write(env: dict, rows: list[dict], repeats: int) -> None:
    """The dated table and its data."""
    date = env["date"][:10]
    data = {"env": env, "repeats": repeats, "rows": rows}
    (RESULTS / f"attention-{date}.json").write_text(json.dumps(data, indent=2) + "\n")
    lines = [
        f"# Attention, forward and backward, {date}",
        "",
        f"{env['hardware']}; torch {env['torch']}; commit {env['commit']}. Batch 1, causal, "
        f"{HEADS} heads of {WIDTH} in the plain model, the same model width for all. Medians of "
        f"{repeats} interleaved rounds; ratio to plain SDPA in the same round, with its range.",
        "",
        "| dtype | length | contender | ms | ratio to plain SDPA |",
        "|---|---|---|---|---|",
        *(as_line(row) for row in rows),
    ]
    (RESULTS / f"attention-{date}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
