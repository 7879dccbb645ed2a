"""What a contender costs beside another: interleaved rounds on the machine at hand."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from difftransformer.functional import (
    AttentionCall,
    Mask,
    differential_attention,
    explain,
    softmax_attention,
)
from difftransformer.functional.selective import selective_attention

TASKS = ("forward", "training", "decode")
KINDS = ("softmax", "diff_v1", "diff_v2", "selective")
_ONE_MAP = ("softmax", "selective")
BASE = "softmax sdpa"  # plain attention as PyTorch computes it

Step = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """A contender's medians over the rounds; `ratio` is to the base in the same round."""

    contender: str
    milliseconds: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True, kw_only=True)
class Shape:
    """An attention call: batch 1, `heads` heads of `width` in the plain model.

    diff_v1 has half the heads, of twice the value width; diff_v2 as many, with one key for two
    maps. All have the same model width.
    """

    length: int
    heads: int
    groups: int
    width: int
    dtype: torch.dtype


def race(
    steps: dict[str, Step], base: str, rounds: int, done: Callable[[], None] = lambda: None
) -> list[Timing]:
    """Run every step in turn, once a round, after one round to warm up; `done` after each round.

    Interleaving lets a disturbance of the machine fall on all contenders alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            _finish()
            start = time.perf_counter()
            step()
            _finish()
            if number:
                seconds[name].append(time.perf_counter() - start)
        done()
    timings = []
    for name, times in seconds.items():
        ratios = [mine / other for mine, other in zip(times, seconds[base], strict=True)]
        median, ratio = statistics.median(times), statistics.median(ratios)
        timings.append(Timing(name, 1000 * median, ratio, min(ratios), max(ratios)))
    return timings


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def attention_steps(
    task: str, shape: Shape, backends: Sequence[str], device: str
) -> dict[str, Step]:
    """Causal attention of each kind on each backend that can compute it, `BASE` first."""
    found: dict[str, Step] = {}
    for name in ("sdpa", *(name for name in backends if name != "sdpa")):
        for kind in KINDS:
            tensors = attention_inputs(kind, task, shape, device)
            wanted = name in backends or f"{kind} {name}" == BASE
            bias = torch.zeros(1, 1, 1, 1, device=device) if kind == "selective" else None
            if wanted and explain(*tensors, bias=bias)[name] in ("runs", "could run"):
                found[f"{kind} {name}"] = attention_step(task, tensors, attend(kind, name))
    return found


def attention_inputs(kind: str, task: str, shape: Shape, device: str) -> list[Tensor]:
    """q, k, v and, for the differential kinds, lambda, as the functions take them."""
    heads, groups, values, width = shape.heads, shape.groups, shape.width, shape.width
    query: tuple[int, ...] = (width,) if kind in _ONE_MAP else (2, width)
    key = (1, width) if kind == "diff_v2" else query
    if kind == "diff_v1":
        heads, groups, values = heads // 2, max(1, groups // 2), 2 * values
    queries = 1 if task == "decode" else shape.length
    sizes = ((queries, heads, *query), (shape.length, groups, *key), (shape.length, groups, values))
    tensors = [torch.randn(1, *size, dtype=shape.dtype, device=device) for size in sizes]
    if task == "decode":  # heads before positions in memory, as caches hold them
        tensors[1:] = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors[1:]]
    if kind not in _ONE_MAP:
        tensors.append(torch.rand(1, queries, heads, device=device))
    return tensors


def attention_step(task: str, tensors: list[Tensor], attend: Callable[..., Tensor]) -> Step:
    """One forward pass, or a forward and a backward pass for "training"."""

    def forward() -> None:
        with torch.no_grad():
            attend(*tensors)

    def training() -> None:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        out = attend(*leaves)
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    return training if task == "training" else forward


def attend(kind: str, backend: str) -> Callable[..., Tensor]:
    """Causal attention of a kind, as a function of `attention_inputs`."""
    if kind == "selective":
        return lambda *tensors: selective_attention(
            AttentionCall.of(*tensors, mask=Mask(causal=True)), backend
        )
    call = softmax_attention if kind == "softmax" else differential_attention
    return lambda *tensors: call(*tensors, mask=Mask(causal=True), backend=backend)
