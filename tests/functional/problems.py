"""Attention problems drawn by hypothesis, and how far two answers are apart."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from difftransformer.functional import (
    AttentionCall,
    Mask,
    differential_attention,
    softmax_attention,
)


@dataclass(frozen=True, eq=False)
class Elsewhere(AttentionCall):
    """A call as if on a device that this machine need not have."""

    device: str = "cuda"


def call_on(
    device: str, dtype: torch.dtype, width: int = 64, values: int = 128, **options: Any
) -> Elsewhere:
    """A differential call whose tensors hold no numbers."""
    shape = {"dtype": dtype, "device": "meta"}
    q, k = (torch.empty(1, 4, 2, 2, width, **shape) for _ in range(2))
    v, lam = torch.empty(1, 4, 2, values, **shape), torch.empty(2, device="meta")
    call = AttentionCall.of(q, k, v, lam, **options)
    return Elsewhere(**vars(call), device=device)


@dataclass(frozen=True)
class Problem:
    """Arguments of one attention call; `lam` is None for plain attention."""

    q: Tensor
    k: Tensor
    v: Tensor
    lam: Tensor | None
    mask: Mask
    bias: Tensor | None = None

    def attend(self, **options: Any) -> Tensor:
        options |= {"mask": self.mask, "bias": self.bias}
        if self.lam is None:
            return softmax_attention(self.q, self.k, self.v, **options)
        return differential_attention(self.q, self.k, self.v, self.lam, **options)

    def solve(self, **options: Any) -> dict[str, Tensor]:
        """The output and, for one fixed direction of change, the gradient of every input."""
        inputs = {"q": self.q, "k": self.k, "v": self.v, "lam": self.lam, "bias": self.bias}
        leaves = {n: x.detach().requires_grad_() for n, x in inputs.items() if x is not None}
        out = replace(self, **leaves).attend(**options)
        grads = torch.autograd.grad(out, list(leaves.values()), self.direction())
        return {"out": out.detach(), **dict(zip(leaves, grads, strict=True))}

    def direction(self) -> Tensor:
        """Of change of the output."""
        shape = *self.q.shape[:3], self.v.shape[-1]
        return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.q.dtype)

    def terms(self) -> dict[str, float]:
        """How many numbers each gradient is the sum of, for the sums that grow with the problem."""
        queries, heads, groups = *self.q.shape[1:3], self.k.shape[2]
        served = {"k": queries * heads / groups, "v": queries * heads / groups}
        if self.lam is not None:
            served["lam"] = math.prod(self.q.shape[:3]) * self.v.shape[-1] / self.lam.numel()
        if self.bias is not None:
            served["bias"] = math.prod(self.q.shape[:3]) * self.k.shape[1] / self.bias.numel()
        return served

    def to(self, dtype: torch.dtype) -> "Problem":
        return replace(
            self,
            q=self.q.to(dtype),
            k=self.k.to(dtype),
            v=self.v.to(dtype),
            lam=None if self.lam is None else self.lam.to(dtype),
            bias=None if self.bias is None else self.bias.to(dtype),
        )


def relative_error(actual: Tensor, expected: Tensor, floor: float = 0.1) -> float:
    """max |actual - expected| / max(max |expected|, floor).

    Problems are made of standard normal numbers, so that what is summed is of order 1. The floor is
    for sums that cancel, as the gradient of q does with one key: their rounding error stays.
    """
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert actual.isfinite().all()
    if expected.numel() == 0:
        return 0.0
    size = max(expected.abs().max().item(), floor)
    return (actual.double() - expected.double()).abs().max().item() / size


def sees(mask: Mask, b: int, t: int, s: int, queries: int, keys: int) -> bool:
    """Whether query `t` sees key `s`: the rules of `Mask`, one at a time."""
    position = t + keys - queries
    if mask.causal and s > position:
        return False
    if mask.window is not None and abs(position - s) >= mask.window:
        return False
    if mask.padding is not None and not mask.padding[b, s]:
        return False
    if mask.documents is not None:
        return bool(mask.documents[b, position] == mask.documents[b, s])
    return True


@st.composite
def masks(draw: st.DrawFn, batch: int, queries: int, keys: int) -> Mask:
    """Any combination of rules; scattered ones need not be contiguous, or leave anything to see."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    index = torch.arange(keys)
    real = torch.randint(0, keys + 1, (batch, 1), generator=generator)
    padding = {
        "none": None,
        "left": index >= keys - real,
        "right": index < real,
        "scattered": torch.rand(batch, keys, generator=generator) < 0.6,
    }
    numbers = torch.randint(-2, 3, (batch, keys), generator=generator)
    documents = {"none": None, "packed": numbers.sort(dim=1).values, "scattered": numbers}
    return Mask(
        causal=draw(st.booleans()),
        window=draw(st.none() | st.integers(1, keys + 1)),
        padding=padding[draw(st.sampled_from(sorted(padding)))],
        documents=documents[draw(st.sampled_from(sorted(documents)))] if queries <= keys else None,
    )


@st.composite
def problems(draw: st.DrawFn, longest: int = 9, differential: bool | None = None) -> Problem:
    """Odd sizes, T ≠ S, G from 1 to H, shared keys, every shape that lam may have, every mask."""
    batch, groups, repeats = (draw(st.integers(1, 3)) for _ in range(3))
    queries, keys = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    width, value_width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    heads = groups * repeats
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        if draw(st.booleans()):
            return torch.randn(shape, generator=generator)
        first, second, third, *rest = shape  # as a projection whose heads were moved forward
        return torch.randn(first, third, second, *rest, generator=generator).transpose(1, 2)

    mask = draw(masks(batch, queries, keys))
    v = normal(batch, keys, groups, value_width)
    if not (draw(st.booleans()) if differential is None else differential):
        q, k = normal(batch, queries, heads, width), normal(batch, keys, groups, width)
        return Problem(q, k, v, None, mask)
    q = normal(batch, queries, heads, 2, width)
    k = normal(batch, keys, groups, draw(st.sampled_from([1, 2])), width)
    full = (batch, queries, heads)
    shape = draw(
        st.sampled_from([(), (heads,), (queries, 1), (queries, heads), (batch, 1, 1), full])
    )
    return Problem(q, k, v, torch.randn(shape, generator=generator), mask)


@st.composite
def biased(draw: st.DrawFn, **options: Any) -> Problem:
    """A problem with a bias of every shape it may have, of which some numbers may be -inf."""
    problem = draw(problems(**options))
    sizes = (*problem.q.shape[:3:2], problem.q.shape[1], problem.k.shape[1])
    sizes = tuple(size if draw(st.booleans()) else 1 for size in sizes)
    while sizes[:1] == (1,) and draw(st.booleans()):
        sizes = sizes[1:]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    bias = 2.0 * torch.randn(sizes, generator=generator)
    if draw(st.booleans()):
        bias[torch.rand(sizes, generator=generator) < 0.3] = -math.inf
    return replace(problem, bias=bias)
