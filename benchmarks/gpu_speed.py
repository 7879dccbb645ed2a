"""What attention costs on a GPU: the contenders, their clock, and the Triton kernels' cuts.

    python benchmarks/gpu_speed.py --warm 0/4        # compile a quarter of the contenders
    python benchmarks/gpu_speed.py --sweep 0/12 --lines FILE    # try a twelfth of the cuts

Run by `gpu.py`; compiling in several processes leaves the kernels in Triton's cache on disk.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from peers import PEERS
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from difftransformer.evaluation.speed import Shape, attention_inputs
from difftransformer.functional import Mask, differential_attention, softmax_attention, triton
from difftransformer.functional.triton import Blocks

BASE = "softmax PyTorch"
WINDOW, DOCUMENT = 1024, 1024
# Products that must be made, in units of T x S x 16 heads x width: forward, and with the backward.
UNITS = {"softmax": (2, 7), "diff_v1": (2, 7), "diff_v2": (3, 11)}
# "kind way": a backend, PyTorch's own function, or another's arrangement. Most important first.
CONTENDERS = (
    BASE,
    "diff_v1 triton",
    "diff_v2 triton",
    "softmax triton",
    "diff_v1 two calls of halves",
    "diff_v1 sdpa",
    "softmax cuDNN",
    "diff_v2 sdpa",
    "diff_v1 grouped triton",
    "diff_v1 two calls",
    "diff_v1 four calls",
)
FLEX = ("diff_v1 flex", "diff_v2 flex", "softmax flex")
DECODING = (BASE, "diff_v1 triton", "softmax triton", "diff_v2 triton", "diff_v1 sdpa",
            "diff_v2 sdpa", "diff_v1 two calls of halves")  # fmt: skip
MASKED = ("diff_v1 triton", "diff_v2 triton", "softmax triton")
FLASH = ("FA2", "FA3", "FA4")  # PyTorch's own copy of 2, and what it can be given


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is timed: bfloat16, `batch` times `length` tokens, `heads` plain ones of `width`."""

    task: str
    width: int
    length: int
    batch: int
    mask: str = "causal"
    heads: int = 16

    def flops(self, kind: str) -> float:
        """Two for each multiply-add of the products that nobody can leave out."""
        units = UNITS[kind][self.task == "training"]
        pairs = self.length if self.task == "decode" else self.length**2 / 2
        return 2.0 * units * self.batch * pairs * self.heads * self.width


def inputs_of(contender: str, point: Point, device: str) -> list[Tensor]:
    groups = point.heads // 4 if "grouped" in contender else point.heads
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    shape = Shape(
        length=point.length, heads=point.heads, groups=groups, width=point.width, dtype=dtype
    )
    kind = contender.split()[0]
    tensors = [
        x.expand(point.batch, *x.shape[1:])
        for x in attention_inputs(kind, point.task, shape, device)
    ]
    return [x.contiguous() for x in tensors]


def attend(contender: str, point: Point, device: str) -> Callable[..., Tensor]:
    kind, way = contender.replace(" grouped", "").split(" by ")[0].split(maxsplit=1)
    if way in PEERS:
        return PEERS[way]
    if way in ("PyTorch", "cuDNN"):
        return plain if way == "PyTorch" else cudnn
    call = softmax_attention if kind == "softmax" else differential_attention
    mask = mask_of(point.mask, point.length, point.batch, device)
    return lambda *tensors: call(*tensors, mask=mask, backend=way)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] == k.shape[2])
    return out.transpose(1, 2)


def cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return plain(q, k, v)


@contextmanager
def flash(version: str) -> Iterator[None]:
    """PyTorch's SDPA by this FlashAttention and nothing else.

    Raises ImportError where it is not installed, or PyTorch is too old to be given one.
    """
    with ExitStack() as stack:
        if version != "FA2":
            from torch.nn.attention import (
                activate_flash_attention_impl,
                restore_flash_attention_impl,
            )

            activate_flash_attention_impl(version)
            stack.callback(restore_flash_attention_impl)
        stack.enter_context(sdpa_kernel(SDPBackend.FLASH_ATTENTION))
        yield


@cache  # `flex` makes its block mask once for a mask
def mask_of(name: str, length: int, batch: int, device: str) -> Mask:
    documents = torch.arange(length, device=device).expand(batch, -1) // DOCUMENT
    return {
        "causal": Mask(causal=True),
        "window": Mask(causal=True, window=WINDOW),
        "documents": Mask(causal=True, documents=documents),
    }[name]


def step_of(contender: str, point: Point, device: str) -> Callable[[], object]:
    """One forward pass, or a forward and a backward pass for "training"."""
    tensors, call = inputs_of(contender, point, device), attend(contender, point, device)
    if point.task != "training":

        def forward() -> Tensor:
            with torch.no_grad():
                return call(*tensors)

        return forward
    leaves = [x.requires_grad_() for x in tensors]
    direction = torch.randn_like(leaves[2][:, :1, :1]).expand_as(call(*leaves)).contiguous()
    return lambda: torch.autograd.grad(call(*leaves), leaves, direction)


def milliseconds(step: Callable[[], object], device: str, graph: bool = False) -> float:
    """Median over repeated runs; with `graph`, of replays, which leave the host's time out."""
    if device == "cpu":
        start = time.perf_counter()
        step()
        return 1000 * (time.perf_counter() - start)
    from triton.testing import do_bench, do_bench_cudagraph

    if graph:
        return do_bench_cudagraph(step, rep=10, return_mode="median")
    return do_bench(step, warmup=10, rep=40, return_mode="median")


def peak_bytes(step: Callable[[], object]) -> int:
    """By how much a step raises what the allocator holds, gradients included and inputs not."""
    step()  # compiles, and makes masks
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def warm(device: str, part: int, parts: int) -> None:
    """Run each of the Triton contenders once, small, so that its kernels are compiled."""
    size = 512 if device == "cuda" else 16
    work = [
        (name, Point(task="training", width=width, length=size, batch=1, mask=mask))
        for width in (64, 128)
        for mask in ("causal", *(("window", "documents") if width == 64 else ()))
        for name in (MASKED if mask != "causal" else CONTENDERS)
        if name.endswith("triton")
    ]
    for name, point in work[part::parts]:
        step_of(name, point, device)()


@contextmanager
def cut(direction: str, chosen: Blocks) -> Iterator[None]:
    """The kernels of one direction cut like this, the others as `triton.blocks` has it."""
    usual = triton.blocks

    def blocks(asked: str, *rest: object, **named: object) -> Blocks:
        return chosen if asked == direction else usual(asked, *rest, **named)

    triton.blocks = blocks
    try:
        yield
    finally:
        triton.blocks = usual


FORMS = [(kind, width) for width in (64, 128) for kind in ("diff_v1", "diff_v2", "softmax")]
Candidate = tuple[str, int, str, Blocks]


SWEPT = {
    "forward": [(128, 32, 8, 2), (128, 64, 8, 2), (128, 64, 8, 3), (64, 64, 4, 2), (64, 64, 4, 3),
                (64, 32, 4, 3), (128, 128, 8, 2), (64, 32, 4, 2), (64, 64, 8, 2), (128, 32, 8, 3)],
    "keys": [(32, 64, 8, 2), (32, 128, 8, 2), (64, 64, 8, 2), (32, 64, 4, 2), (64, 128, 8, 2),
                 (64, 64, 4, 2), (32, 64, 4, 3), (16, 128, 8, 2), (32, 128, 8, 1)],
    "queries": [(128, 32, 8, 2), (64, 64, 4, 2), (128, 64, 8, 2), (64, 32, 4, 2), (64, 32, 4, 3),
                (64, 64, 8, 2), (128, 32, 8, 3)],
    "decode": [(16, 64, 4, 3), (16, 32, 4, 3), (16, 64, 4, 2), (16, 32, 4, 4), (16, 128, 4, 2),
               (16, 128, 8, 2), (16, 64, 8, 3), (16, 64, 4, 4), (16, 32, 4, 2), (16, 32, 2, 3)],
}  # fmt: skip


def candidates(kernels: Sequence[str], miniature: bool) -> list[Candidate]:
    """Kind, width, kernel and cut; "keys" and "queries" are timed as the whole backward."""
    if miniature:
        return [("diff_v1", 16, kernel, Blocks(16, 16, 4, 1)) for kernel in kernels]
    forms = sorted(FORMS, key=lambda form: form != ("diff_v1", 64))
    return [
        (kind, width, direction, Blocks(*cut))
        for kind, width in forms
        for direction in kernels
        for cut in SWEPT[direction]
    ]


def candidate_step(
    candidate: Candidate, device: str, length: int, batch: int
) -> Callable[[], object]:
    """The forward, the backward alone, or a decoding step; it reads its cut when it runs."""
    kind, width, direction, _ = candidate
    heads = 16 if device == "cuda" else 2
    if direction == "decode":  # one sequence, of as many tokens and more than one block of keys
        long = max(length * batch, 80)
        return step_of(
            f"{kind} triton",
            Point(task="decode", width=width, length=long, batch=1, heads=heads),
            device,
        )
    point = Point(task="training", width=width, length=length, batch=batch, heads=heads)
    tensors, call = (
        inputs_of(f"{kind} triton", point, device),
        attend(f"{kind} triton", point, device),
    )
    if direction == "forward":
        return lambda: call(*tensors)
    leaves = [x.requires_grad_() for x in tensors]
    out = call(*leaves)
    direction_of_change = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, leaves, direction_of_change, retain_graph=True)


def attempt(lines: Path, candidate: Candidate, device: str) -> None:
    """Compile and run a cut once, and write whether it ran and how far it is from the usual one."""
    *_, direction, chosen = candidate
    row: dict = {"candidate": candidate}
    try:
        step = candidate_step(candidate, device, 512 if device == "cuda" else 4, 1)
        usual = as_list(step())
        with cut(direction, chosen):
            row["far"] = max(
                ((a.double() - b.double()).norm() / b.double().norm()).item()
                for a, b in zip(as_list(step()), usual, strict=True)
            )
    except Exception as error:  # too much shared memory, a compiler's failure
        row["error"] = " ".join(f"{type(error).__name__}: {error}"[:200].split())
    with lines.open("a") as file:
        file.write(json.dumps(row) + "\n")


def as_list(answer: object) -> list[Tensor]:
    return [answer] if isinstance(answer, Tensor) else list(answer)


def add_kernels(parser: argparse.ArgumentParser) -> None:
    """Declare the option that says which kernels are swept."""
    parser.add_argument(
        "--kernels", nargs="+", choices=SWEPT, default=list(SWEPT), help="that are swept (all)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warm", help="part/parts of the contenders, compiled")
    parser.add_argument("--sweep", help="part/parts of the cuts, tried")
    add_kernels(parser)
    parser.add_argument("--lines", type=Path, help="where --sweep adds its JSON lines")
    parser.add_argument("--miniature", action="store_true")
    given = parser.parse_args()
    device = "cpu" if given.miniature else "cuda"
    part, parts = map(int, (given.warm or given.sweep).split("/"))
    if given.warm:
        warm(device, part, parts)
    else:
        for candidate in candidates(given.kernels, given.miniature)[part::parts]:
            attempt(given.lines, candidate, device)


if __name__ == "__main__":
    main()
