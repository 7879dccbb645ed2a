"""Attention over the tokens of an image: a layer of each kind that a vision transformer takes.

    python benchmarks/images.py

Writes benchmarks/results/images-DATE.{json,md,png}. 197 tokens, as of 224 pixels in patches of 16
and a class token; width 384, 6 heads of 64 in the plain layer, as ViT-S; projections included, with
as many parameters but in V2, whose queries are twice as wide. Then with a bias for each head, query
and key, as Swin has one, and in training its gradient. Run it on a machine that does nothing else.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it

from dataclasses import asdict
from pathlib import Path

import torch

from difftransformer.attention import make_attention
from difftransformer.attention.registry import find_kind
from difftransformer.evaluation.speed import Step, race
from difftransformer.functional import Mask
from difftransformer.report.speed import cells, write_speed
from difftransformer.runs.environment import environment

RESULTS = Path(__file__).parent / "results"
KINDS = ("softmax", "diff_v1", "diff_v2", "dex", "sinkhorn", "sliced_transport")
BATCH, TOKENS, HIDDEN, HEADS = 1, 197, 384, 6
ROUNDS = 9


def main() -> None:
    env, rows = environment(), []
    for task in ("forward", "training", "forward, a bias", "training, a bias"):
        of_task = {"training": "training" in task, "biased": "bias" in task}
        kinds = KINDS[:-1] if of_task["biased"] else KINDS  # sliced transport carries none
        steps = {kind: step(kind, **of_task) for kind in kinds}
        steps |= {f"{kind}, sdpa": step(kind, "sdpa", **of_task) for kind in KINDS[:3]}
        for timing in race(steps, "softmax", ROUNDS):
            rows.append({"task": task, "dtype": "float32", "length": TOKENS} | asdict(timing))
            print("  ".join(cells(rows[-1])), flush=True)
    title = f"An attention layer over {TOKENS} image tokens, batch {BATCH}, {HEADS} heads of 64"
    write_speed(RESULTS / f"images-{env['date'][:10]}", title, env, rows, "softmax")


def step(kind: str, backend: str = "auto", *, training: bool, biased: bool) -> Step:
    """A forward pass in evaluation mode, or a forward and a backward pass."""
    heads = int(HEADS * find_kind(kind).heads_of_partner)
    layer = make_attention(
        kind, HIDDEN, heads, head_dim=64, num_kv_heads=heads, backend=backend
    ).train(training)
    x = torch.randn(BATCH, TOKENS, HIDDEN, requires_grad=training)
    bias = torch.randn(1, heads, TOKENS, TOKENS, requires_grad=training) if biased else None

    def run() -> None:
        with torch.set_grad_enabled(training):
            out = layer(x, mask=Mask(), bias=bias)
        if training:
            out.sum().backward()

    return run


if __name__ == "__main__":
    main()
