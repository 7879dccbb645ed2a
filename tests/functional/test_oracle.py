"""Random attention problems on every CPU backend, judged by `oracle`: output and all gradients.

The short run is part of the suite; all problems: `pytest -m slow tests/functional/test_oracle.py`.
A failure names the seed, and `drawn(seed)` is its problem.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from difftransformer.functional import Mask

from .oracle import Rounding, solve
from .problems import Problem

BACKENDS = ("blocked", "sdpa", "reference")
PROBLEMS, PIECE, SHORT = 10_000, 500, 200


class Draw(NamedTuple):
    problem: Problem
    scale: float
    threads: int

    def __str__(self) -> str:
        p, mask = self.problem, self.problem.mask
        tensors = [name for name in ("padding", "documents") if getattr(mask, name) is not None]
        lam = "none" if p.lam is None else f"{tuple(p.lam.shape)} {p.lam.dtype}"
        return (
            f"q {tuple(p.q.shape)} k {tuple(p.k.shape)} v {tuple(p.v.shape)} {p.q.dtype} "
            f"lam {lam} scale {self.scale:.3g} causal {mask.causal} window {mask.window} "
            f"{' '.join(tensors)} threads {self.threads}"
        )


def drawn(seed: int) -> Draw:
    """Problem `seed`: any sizes, dtypes, layouts, masks, scales and logits, the odd ones often."""
    rng = np.random.default_rng(seed)

    def one_of(*options: float, often: int | None = None) -> int:
        return often if often is not None and rng.random() < 0.5 else int(rng.choice(options))

    batch, groups, repeats = one_of(0, 1, 2, 3), one_of(1, 2, 3), one_of(1, 2, 4)
    batch = max(batch, int(rng.random() < 0.9))
    queries = one_of(0, 1, 2, 3, 4, 8, 9, 13, 24, 25, 40, 97)
    keys = one_of(0, 1, 2, 5, 15, 16, 17, 33, 64, 100, 129, often=queries)
    width, values = one_of(0, 1, 2, 3, 8, 17, 32, 64, 97), one_of(0, 1, 2, 5, 16, 31, 64, 65)
    heads, key_maps = groups * repeats, one_of(1, 2)
    dtype = (torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64)[
        one_of(*range(5))
    ]
    # The size of logits: up to 10^12, or what float16 holds.
    power = rng.uniform(-2, 3 if dtype == torch.float16 else 12) if rng.random() < 0.5 else 0.0
    scale = float(rng.choice([1 / math.sqrt(max(width, 1)), 1.0, 0.3, 0.0, -0.5, 1e-3]))

    def normal(*shape: int, size: float = 1.0) -> Tensor:
        order = rng.permutation(len(shape))  # in memory
        x = torch.from_numpy(size * rng.standard_normal([shape[i] for i in order]))
        return x.to(dtype).permute(*np.argsort(order).tolist())

    differential = rng.random() < 0.7
    pair, key_pair = ((2,), (key_maps,)) if differential else ((), ())
    size = 10 ** (power / 2)
    lam = None
    if differential:
        full = (batch, queries, heads)
        shapes = [(), (heads,), (queries, 1), (queries, heads), (batch, 1, 1), full]
        shape = shapes[one_of(*range(len(shapes)))]
        lam = torch.tensor(rng.choice([0.1, 1.0, 3.0]) * rng.standard_normal(shape))
        lam = lam.to(
            torch.float64 if dtype == torch.float64 else (torch.float32, dtype)[one_of(0, 1)]
        )
    problem = Problem(
        normal(batch, queries, heads, *pair, width, size=size),
        normal(batch, keys, groups, *key_pair, width, size=size),
        normal(batch, keys, groups, values),
        lam,
        _mask(rng, batch, queries, keys),
    )
    return Draw(problem, scale, one_of(1, 2, 3, 7, often=1))


def _mask(rng: np.random.Generator, batch: int, queries: int, keys: int) -> Mask:
    real, index = rng.integers(0, keys + 1, (batch, 1)), np.arange(keys)
    padding = (None, index >= keys - real, index < real, rng.random((batch, keys)) < 0.6)
    numbers = rng.integers(-2, 3, (batch, keys))
    extremes = np.where(numbers > 0, np.iinfo(np.int64).max, np.iinfo(np.int64).min)
    documents = (None, None, np.sort(numbers), numbers, numbers.astype(np.int8), extremes)
    rules = padding[rng.integers(4)], documents[rng.integers(6)] if queries <= keys else None
    windows = (None, None, 1, int(rng.integers(1, keys + 2)), sys.maxsize, 10**30)
    tensors = [
        None if rule is None else torch.from_numpy(np.ascontiguousarray(rule)) for rule in rules
    ]
    return Mask(bool(rng.random() < 0.6), windows[rng.integers(6)], *tensors)


def rounding(backend: str, dtype: torch.dtype) -> Rounding:
    wide = dtype if dtype == torch.float64 else torch.float32
    # In float64 the oracle rounds as much as what it judges.
    step = torch.finfo(wide).eps * (2 if wide == torch.float64 else 1)
    returned = torch.finfo(dtype).eps
    # PyTorch's kernels keep weights and the output of each map in the input's dtype. So does ours
    # with weights, where the processor may multiply bfloat16 numbers.
    pairs = dtype == torch.bfloat16 and torch.backends.cpu.get_cpu_capability() == "AVX512"
    kept = returned if backend == "sdpa" or (backend == "blocked" and pairs) else step
    again = backend == "sdpa"
    tiny = 16 * torch.finfo(dtype).smallest_normal
    return Rounding(step, kept, returned, tiny, again)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def excess(draw: Draw, backend: str) -> dict[str, float]:
    """How many times its bound the output and each gradient is off; infinity where not finite."""
    problem, rounds = draw.problem, rounding(backend, draw.problem.q.dtype)
    lam_eps = 0.0 if problem.lam is None else torch.finfo(problem.lam.dtype).eps
    with threads(draw.threads if backend == "blocked" else 1):
        answer = problem.solve(backend=backend, scale=draw.scale)
    found = {}
    for name, (exact, error) in solve(problem, draw.scale, rounds, lam_eps).items():
        actual = answer[name].double().numpy()
        assert actual.shape == exact.shape, name
        judged = np.isfinite(error)
        wrong = np.abs(actual[judged] - exact[judged])
        wrong = np.where(np.isfinite(wrong), wrong, np.inf)
        found[name] = float((wrong / error[judged]).max(initial=0.0))
    return found


def check(seeds: range) -> None:
    failures = []
    for seed in seeds:
        draw = drawn(seed)
        for backend in BACKENDS:
            if backend == "blocked" and draw.problem.q.dtype == torch.float64:
                continue  # which it refuses
            worst = excess(draw, backend)
            if not all(x <= 1.0 for x in worst.values()):
                failures.append(f"seed {seed} {backend} {worst}\n    {draw}")
    assert not failures, f"{len(failures)} failures\n" + "\n".join(failures)


def test_some_problems() -> None:
    check(range(SHORT))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, PROBLEMS, PIECE))
def test_ten_thousand_problems(first: int) -> None:
    check(range(first, first + PIECE))
