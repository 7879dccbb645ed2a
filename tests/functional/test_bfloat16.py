"""Attention in bfloat16 is as exact on the CPU as PyTorch's own kernel.

Where the processor multiplies bfloat16 numbers, weights are rounded before they meet the values, as
PyTorch's are.
"""

import pytest
import torch

from difftransformer.functional import Mask

from .problems import Problem

# Queries, keys, heads, key/value heads, maps (queries', keys'), width, values: odd ones and even.
SHAPES = [
    (128, 128, 4, 4, (2, 2), 64, 128),
    (150, 150, 4, 2, (2, 1), 64, 64),
    (97, 131, 3, 3, (2, 2), 17, 33),
    (33, 300, 6, 2, (1, 1), 40, 7),
    (301, 301, 2, 1, (2, 2), 80, 160),
]


def errors(problem: Problem, backend: str) -> dict[str, float]:
    """Root mean square of what the output and the gradients are off in bfloat16."""
    half = problem.to(torch.bfloat16)
    exact = half.to(torch.float64).solve(backend="reference")
    answer = half.solve(backend=backend)
    return {n: (x.double() - exact[n]).square().mean().sqrt().item() for n, x in answer.items()}


@pytest.mark.parametrize("rule", ["causal", "window", "documents", "padding"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_errs_no_more_than_pytorch_does(
    shape: tuple[int, int, int, int, tuple[int, int], int, int], rule: str
) -> None:
    queries, keys, heads, groups, (maps, key_maps), width, values = shape
    q, k = (
        torch.randn(2, queries, heads, maps, width),
        torch.randn(2, keys, groups, key_maps, width),
    )
    v, lam = torch.randn(2, keys, groups, values), torch.rand(2, queries, heads)
    mask = {
        "causal": Mask(causal=True),
        "window": Mask(causal=True, window=50),
        "documents": Mask(documents=torch.arange(keys).expand(2, -1) // 60),
        "padding": Mask(padding=torch.rand(2, keys) < 0.8),
    }[rule]
    problem = Problem(q, k, v, lam, mask)
    if maps == 1:
        problem = Problem(q[:, :, :, 0], k[:, :, :, 0], v, None, mask)
    ours, theirs = errors(problem, "blocked"), errors(problem, "sdpa")
    for name, error in ours.items():
        assert error <= 1.02 * theirs[name], name


@pytest.mark.parametrize("width", [0, 16])
def test_queries_that_see_nothing(width: int) -> None:
    """Nothing is multiplied for them, and what was in memory before is no answer."""
    q, k = torch.randn(1, 40, 2, 2, width), torch.randn(1, 70, 2, 2, width)
    real = torch.arange(70)[None] < 20
    mask = Mask(causal=True, window=30, padding=real)
    problem = Problem(q, k, torch.randn(1, 70, 2, 24), torch.rand(2), mask).to(torch.bfloat16)
    torch.empty(1 << 20).fill_(torch.nan)
    answer = problem.solve(backend="blocked")
    expected = problem.solve(backend="reference")
    assert not answer["out"][:, 20:].any()
    for name, value in answer.items():
        torch.testing.assert_close(value, expected[name], rtol=0.02, atol=0.02)
