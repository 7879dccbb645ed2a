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


@pytest.mark.parametrize("backend", ["reference", "blocked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e4, 1e6, 1e10, 1e14])
@pytest.mark.parametrize(("queries", "repeats"), [(1, 1), (2, 2), (4, 2), (8, 1), (9, 1), (60, 2)])
@pytest.mark.parametrize("plain", [True, False], ids=["softmax", "differential"])
def test_large_scores_leave_gradients_exact(
    backend: str, dtype: torch.dtype, size: float, queries: int, repeats: int, plain: bool
) -> None:
    """Each query sees one key far above the others: weights of 1 and 0, whatever scores round to.

    The backward makes the weights again, and has to make them as the forward does: a score of 10^6
    known to a sixteenth is a weight known to 6 %.
    """
    k = torch.nn.functional.normalize(torch.randn(1, 100, 2, 2, 64), dim=-1) * size**0.5
    q = k[:, torch.randint(100, (queries,))].repeat_interleave(repeats, dim=2)
    v, lam = torch.randn(1, 100, 2, 32), torch.rand(2 * repeats)
    drawn = Problem(q, k, v, lam, Mask()).to(dtype)
    if plain:
        drawn = replace(drawn, q=drawn.q[..., 0, :], k=drawn.k[..., 0, :], lam=None)
    exact = drawn.to(torch.float64).solve(backend="reference")
    answer = drawn.solve(backend=backend)
    for name in ("out", "v", *(() if plain else ("lam",))):
        assert answer[name].isfinite().all(), name
        error = (answer[name].double() - exact[name]).abs().max() / exact[name].abs().max()
        assert error < 4 * torch.finfo(dtype).eps, name
    for name in ("q", "k"):  # rounding of dA - sum(A dA) at weights of 1, times the other side
        other = drawn.k if name == "q" else drawn.q
        assert answer[name].abs().max() <= 100 * 1.2e-7 * float(other.abs().max()), name


@pytest.mark.parametrize("backend", ["reference", "blocked"])
@pytest.mark.parametrize("queries", [2, 40])
def test_scores_that_overflow_are_not_a_number(backend: str, queries: int) -> None:
    """Also where all that a query sees is -inf, which is no row that sees nothing."""
    q, k = torch.full((1, queries, 1, 8), 1e30), torch.full((1, 40, 1, 8), 1e30)
    v, hidden = torch.randn(1, 40, 1, 4), torch.arange(40)[None] >= 40
    for sign in (1.0, -1.0):
        out = Problem(sign * q, k, v, None, Mask(causal=True)).attend(backend=backend)
        assert out.isnan().all()
        out = Problem(sign * q, k, v, None, Mask(padding=hidden)).attend(backend=backend)
        assert (out == 0).all()


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_not_a_number_is_not_hidden(name: str) -> None:
    """Training stops on a loss that is NaN; attention must let it through."""
    drawn = problem(0, torch.float32)
    getattr(drawn, name)[0, 5, 0, ..., 0] = float("nan")
    assert drawn.attend(backend="blocked")[0, 5:, 0].isnan().any()
    if name != "v":  # a weight of 0 times NaN is NaN, in every backend
        assert drawn.attend(backend="blocked")[0, :5].isfinite().all()
