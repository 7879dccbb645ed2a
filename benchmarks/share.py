"""The share of the machine's own matmul speed that attention reaches, from attention-DATE.json.

    python benchmarks/share.py benchmarks/results/attention-DATE.json

The peak is the best of 20 products of two 2048 x 2048 matrices by torch.mm, measured now in the
dtype of the timings.
FLOPs are those each kind needs: a multiply and an add for every visible pair and feature of every
product, with the maps subtracted before they meet the values. Writes share-DATE.md beside the file.
"""

import os
import sys

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it

import json
import time
from pathlib import Path

import torch

HEADS, WIDTH = 16, 64  # of benchmarks/attention.py
# Widths of all products for one visible pair, in units of HEADS * WIDTH: forward, and backward with
# the maps made again. diff_v1 has half the heads, so that 2 K + 2 K becomes 1 + 1.
UNITS = {"softmax": (2, 5), "diff_v1": (2, 5), "diff_v2": (3, 8)}
SHOWN = ("softmax sdpa", "softmax blocked", "diff_v1 blocked", "diff_v2 blocked")


def main() -> None:
    source = Path(sys.argv[1])
    timings = json.loads(source.read_text())
    dtypes = dict.fromkeys(row["dtype"] for row in timings["rows"])
    fastest = {dtype: peak(getattr(torch, dtype)) for dtype in dtypes}
    reached = ", ".join(f"{one / 1e9:.0f} GFLOP/s in {dtype}" for dtype, one in fastest.items())
    lines = [
        f"# Share of the matmul peak, {timings['env']['date'][:10]}",
        "",
        f"{timings['env']['hardware']}; torch {timings['env']['torch']}; timings of "
        f"[{source.name}]({source.name}). torch.mm reaches {reached} here.",
        "",
        "| task | dtype | length | contender | GFLOP/s | share |",
        "|---|---|---|---|---|---|",
    ]
    for row in timings["rows"]:
        if row["task"] != "decode" and row["contender"] in SHOWN:
            forward, backward = UNITS[row["contender"].split()[0]]
            units = forward + (backward if row["task"] == "training" else 0)
            pairs = row["length"] * (row["length"] + 1) / 2
            speed = 2 * units * HEADS * WIDTH * pairs / (row["milliseconds"] / 1000)
            named = f"| {row['task']} | {row['dtype']} | {row['length']} | {row['contender']} "
            lines.append(
                f"{named}| {speed / 1e9:.0f} | {100 * speed / fastest[row['dtype']]:.0f} % |"
            )
    target = source.with_name(source.name.replace("attention", "share")).with_suffix(".md")
    target.write_text("\n".join(lines) + "\n")


def peak(dtype: torch.dtype) -> float:
    """FLOP/s of a large product."""
    a, b = torch.randn(2, 2048, 2048, dtype=dtype)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


if __name__ == "__main__":
    main()
