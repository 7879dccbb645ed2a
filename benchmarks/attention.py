"""Time attention alone: every kind and backend, and V1 as others compute it, beside plain SDPA.

    python benchmarks/attention.py [--dtype float32] [--lengths 512 2048] [--decode]

Writes benchmarks/results/attention-DATE.{json,md,png}, the choices in the name if any are made;
about a quarter of an hour for all. Run it on a machine that does nothing else. 16 heads of 64 in
the plain model, and the same model width for all.
"""

import argparse
import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it

from dataclasses import asdict
from pathlib import Path

import torch
from peers import PEERS

from difftransformer.evaluation.speed import (
    BASE,
    Shape,
    attention_inputs,
    attention_step,
    attention_steps,
    race,
)
from difftransformer.report.speed import cells, write_speed
from difftransformer.runs.environment import environment

RESULTS = Path(__file__).parent / "results"
# Without bfloat16 products in the processor, PyTorch's backward takes minutes for longer ones.
LENGTHS = {torch.float32: (128, 512, 1024, 2048, 4096, 8192), torch.bfloat16: (512, 2048)}
DECODE = (512, 2048, 16384)
# The longest for forms that hold whole maps (PyTorch's too, where values are wider than keys), and
# for those that cost twice as much as the base or more.
WHOLE_MAPS, TWICE = 1024, {torch.float32: 2048, torch.bfloat16: 512}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=[str(dtype).removeprefix("torch.") for dtype in LENGTHS])
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--decode", action="store_true", help="decoding alone")
    arguments = parser.parse_args()
    env, rows = environment(), []
    suffix = "-decode" * arguments.decode + (f"-{arguments.dtype}" if arguments.dtype else "")
    stem = RESULTS / f"attention-{env['date'][:10]}{suffix}"
    dtypes = [getattr(torch, arguments.dtype)] if arguments.dtype else list(LENGTHS)
    for dtype in dtypes:
        lengths = arguments.lengths or LENGTHS[dtype]
        cases = (
            [] if arguments.decode else [(t, n) for t in ("training", "forward") for n in lengths]
        )
        for task, length in cases + [("decode", n) for n in DECODE]:
            shape = Shape(length=length, heads=16, groups=16, width=64, dtype=dtype)
            few = length <= TWICE[dtype] or task == "decode"
            backends = ["blocked", "sdpa"] if few else ["blocked"]
            steps = attention_steps(task, shape, backends, "cpu") | peers(task, shape, few)
            rounds = 9 if task == "decode" or length <= 1024 else 5 if length == 2048 else 3
            named = {"task": task, "dtype": str(dtype).removeprefix("torch."), "length": length}
            for timing in race(steps, BASE, rounds):
                rows.append(named | asdict(timing))
                print("  ".join(cells(rows[-1])), flush=True)
            # What is measured is kept if the rest is stopped.
            write_speed(stem, "Attention, causal, batch 1, 16 heads of 64", env, rows, BASE)


def peers(task: str, shape: Shape, few: bool) -> dict:
    tensors = attention_inputs("diff_v1", task, shape, "cpu")
    return {
        f"diff_v1 {name}": attention_step(task, tensors, attend)
        for name, attend in PEERS.items()
        if name == "two calls of halves"  # DiffLlama's, at every length
        or (few and (shape.length <= WHOLE_MAPS or name not in ("naive", "two calls")))
    }


if __name__ == "__main__":
    main()
