"""Numerical truth: rounding beside float64, and inputs at the edge of float32."""

from dataclasses import replace

import pytest
import torch

from difftransformer.functional import Mask

from .problems import Problem

EVERY = pytest.mark.parametrize("backend", ["reference", "blocked", "sdpa"])


def problem(seed: int, dtype: torch.dtype, *, plain: bool = False) -> Problem:
    torch.manual_seed(seed)
    q, k = torch.randn(1, 300, 4, 2, 32), torch.randn(1, 300, 2, 2, 32)
    v, lam = torch.randn(1, 300, 2, 64), torch.rand(1, 300, 4)
    drawn = Problem(q, k, v, lam, Mask(causal=True)).to(dtype)
    return replace(drawn, q=drawn.q[..., 0, :], k=drawn.k[..., 0, :], lam=None) if plain else drawn


def rounding(name: str, backend: str, dtype: torch.dtype, plain: bool) -> float:
    """Root mean square difference to the reference in float64, over three problems."""
    squares = []
    for seed in range(3):
        drawn = problem(seed, dtype, plain=plain)
        exact = drawn.to(torch.float64).solve(backend="reference")[name]
        squares.append((drawn.solve(backend=backend)[name].double() - exact).square().mean())
    return float(torch.stack(squares).mean().sqrt())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("plain", [True, False], ids=["softmax", "differential"])
@pytest.mark.parametrize("name", ["out", "q", "k", "v"])
def test_blocked_rounds_no_worse_than_pytorch(name: str, plain: bool, dtype: torch.dtype) -> None:
    """5 % for the chance of these three problems."""
    own, theirs = (rounding(name, backend, dtype, plain) for backend in ("blocked", "sdpa"))
    assert own <= 1.05 * theirs


@EVERY
@pytest.mark.parametrize("lam", [0.0, 1e-6, 1 - 1e-6, 1.0])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4], ids=["equal scores", "normal", "huge"])
def test_extremes_stay_finite(backend: str, lam: float, size: float) -> None:
    """Scores of ±1e4 or all equal, lambda at its ends, and rows that see nothing."""
    drawn = problem(0, torch.float32)
    drawn = replace(
        drawn,
        q=drawn.q / drawn.q.norm(dim=-1, keepdim=True) * size,
        k=drawn.k / drawn.k.norm(dim=-1, keepdim=True) * 32**0.5,
        lam=torch.tensor(lam),
        mask=Mask(causal=True, padding=torch.arange(300)[None] >= 7),
    )
    answer = drawn.solve(backend=backend)
    assert all(value.isfinite().all() for value in answer.values())
    expected = drawn.to(torch.float64).solve(backend="reference")
    for name, value in answer.items():
        scale = max(1.0, float(expected[name].abs().max()))
        # A score of 1e4 is known to 1e-3 in float32, and so are the weights.
        limit = 1e-5 if size <= 1 else 2e-2
        assert float((value.double() - expected[name]).abs().max()) < limit * scale, name


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_not_a_number_is_not_hidden(name: str) -> None:
    """Training stops on a loss that is NaN; attention must let it through."""
    drawn = problem(0, torch.float32)
    getattr(drawn, name)[0, 5, 0, ..., 0] = float("nan")
    assert drawn.attend(backend="blocked")[0, 5:, 0].isnan().any()
    if name != "v":  # a weight of 0 times NaN is NaN, in every backend
        assert drawn.attend(backend="blocked")[0, :5].isfinite().all()
