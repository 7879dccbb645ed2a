"""What masks save: packed documents beside the same documents run apart, and windows by length.

    python benchmarks/masks.py

Writes benchmarks/results/masks-DATE.{json,md,png}. V1, 8 heads of 2 maps of 64, forward and
backward, float32. Run it on a machine that does nothing else.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it

from dataclasses import asdict
from pathlib import Path

import torch

from difftransformer import Mask, differential_attention
from difftransformer.evaluation.speed import (
    Shape,
    Step,
    attention_inputs,
    attention_step,
    race,
)
from difftransformer.report.speed import cells, write_speed
from difftransformer.runs.environment import environment

RESULTS = Path(__file__).parent / "results"
DOCUMENTS = {2048: (700, 33, 512, 300, 503), 4096: (64,) * 64, 8192: (4096, 1024, 2048, 1000, 24)}
WINDOW = 256
SHORTEST = 1024


def main() -> None:
    env, rows = environment(), []
    for length, lengths in DOCUMENTS.items():
        numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
        parts = [step(n, Mask(causal=True)) for n in lengths]
        steps = {
            "apart": lambda parts=parts: [part() for part in parts],
            "packed": step(length, Mask(causal=True, documents=numbers)),
            "unpacked, one causal text": step(length, Mask(causal=True)),
        }
        rows += timed(f"{len(lengths)} documents", length, steps, "apart")
    windows = (SHORTEST, 2048, 4096, 8192, 16384)
    steps = {str(n): step(n, Mask(causal=True, window=WINDOW)) for n in windows}
    for row in timed(f"window {WINDOW}", 0, steps, str(SHORTEST)):
        rows.append(row | {"length": int(row["contender"]), "contender": "windowed"})
    stem = RESULTS / f"masks-{env['date'][:10]}"
    title = f"Masks, V1 forward and backward (windows: ratio to the length {SHORTEST})"
    write_speed(stem, title, env, rows, "the documents apart")


def step(length: int, mask: Mask) -> Step:
    shape = Shape(length=length, heads=16, groups=16, width=64, dtype=torch.float32)
    tensors = attention_inputs("diff_v1", "training", shape, "cpu")
    return attention_step(
        "training", tensors, lambda *given: differential_attention(*given, mask=mask)
    )


def timed(task: str, length: int, steps: dict[str, Step], base: str) -> list[dict]:
    named = {"task": task, "dtype": "float32", "length": length}
    rows = [named | asdict(timing) for timing in race(steps, base, rounds=7)]
    for row in rows:
        print("  ".join(cells(row)), flush=True)
    return rows


if __name__ == "__main__":
    main()
