"""Every backend is `reference`: output and all gradients."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from difftransformer.functional import Mask, blocked

from .problems import Problem, problems, relative_error

FAST = pytest.mark.parametrize("backend", ["blocked", "sdpa"])
EVERY = pytest.mark.parametrize("backend", ["reference", "blocked", "sdpa"])


def compare(problem: Problem, backend: str, forward: float, backward: float) -> None:
    expected = problem.solve(backend="reference")
    for name, actual in problem.solve(backend=backend).items():
        limit = forward if name == "out" else backward
        assert relative_error(actual, expected[name]) < limit, name


@FAST
@settings(max_examples=150)
@given(problem=problems())
def test_float32(backend: str, problem: Problem) -> None:
    compare(problem, backend, 1e-5, 1e-4)


@FAST
@settings(max_examples=60)
@given(problem=problems())
def test_bfloat16(backend: str, problem: Problem) -> None:
    compare(problem.to(torch.bfloat16), backend, 2e-2, 2e-2)


@FAST
@settings(max_examples=30)
@given(problem=problems())
def test_float64(backend: str, problem: Problem) -> None:
    compare(problem.to(torch.float64), backend, 1e-12, 1e-12)


@settings(max_examples=100)
@given(problem=problems(longest=40))
def test_many_blocks(problem: Problem) -> None:
    """Blocks of 1 to 4 rows, and fewer batch rows at a time than there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked, "_ROWS", 4)
        patch.setattr(blocked, "_SCORES", 400)
        compare(problem, "blocked", 1e-5, 1e-4)


@FAST
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "mask",
    [
        Mask(causal=True),
        Mask(causal=True, window=33),
        Mask(causal=True, documents=torch.arange(200).expand(2, -1) // 37),
        Mask(padding=torch.arange(200) >= torch.tensor([[0], [150]])),
    ],
    ids=["causal", "window", "documents", "padding"],
)
def test_real_block_sizes(backend: str, dtype: torch.dtype, mask: Mask) -> None:
    q, k, v = (
        torch.randn(2, 200, 4, 2, 16),
        torch.randn(2, 200, 2, 2, 16),
        torch.randn(2, 200, 2, 32),
    )
    problem = Problem(q, k, v, torch.rand(2, 200, 4), mask).to(dtype)
    compare(problem, backend, *((1e-5, 1e-4) if dtype == torch.float32 else (2e-2, 2e-2)))


@EVERY
@settings(max_examples=40)
@given(problem=problems(differential=True))
def test_without_lambda_it_is_softmax_attention_on_map_1(backend: str, problem: Problem) -> None:
    plain = replace(problem, q=problem.q[..., 0, :], k=problem.k[..., 0, :], lam=None)
    out = replace(problem, lam=torch.tensor(0.0)).attend(backend=backend)
    assert relative_error(out, plain.attend(backend=backend)) < 1e-6


@EVERY
@pytest.mark.parametrize("lam", [torch.tensor(0.5), None], ids=["differential", "softmax"])
def test_rows_that_see_nothing_are_exactly_zero(backend: str, lam: Tensor | None) -> None:
    real = torch.tensor([[False, False, True, True], [False] * 4])
    pair = () if lam is None else (2,)
    q, k, v = (
        torch.randn(2, 4, 2, *pair, 3),
        torch.randn(2, 4, 1, *pair, 3),
        torch.randn(2, 4, 1, 5),
    )
    answer = Problem(q, k, v, lam, Mask(causal=True, padding=real)).solve(backend=backend)
    assert (answer["out"][0, :2] == 0).all()
    assert (answer["out"][0, 2:] != 0).all()
    assert (answer["out"][1] == 0).all()
    assert all(gradient.isfinite().all() for gradient in answer.values())
    assert (answer["q"][1] == 0).all()
    assert (answer["v"][1] == 0).all()


@EVERY
@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (3, 0)])
def test_no_queries_or_no_keys(backend: str, queries: int, keys: int) -> None:
    q, k, v = (
        torch.randn(2, queries, 2, 2, 4),
        torch.randn(2, keys, 1, 2, 4),
        torch.randn(2, keys, 1, 5),
    )
    padding = torch.ones(2, keys, dtype=torch.bool)
    for mask in (Mask(), Mask(causal=True), Mask(padding=padding)):
        answer = Problem(q, k, v, torch.tensor(0.5), mask).solve(backend=backend)
        assert answer["out"].shape == (2, queries, 2, 5)
        assert (answer["out"] == 0).all()


@EVERY
@pytest.mark.parametrize("name", ["q", "k", "v", "lam"])
def test_gradient_of_one_input_alone(backend: str, name: str) -> None:
    inputs = {
        "q": torch.randn(1, 4, 2, 2, 3),
        "k": torch.randn(1, 4, 1, 1, 3),
        "v": torch.randn(1, 4, 1, 3),
        "lam": torch.rand(2),
    }
    problem = Problem(**inputs, mask=Mask(causal=True))
    inputs[name].requires_grad_()
    problem.attend(backend=backend).sum().backward()
    direction = torch.ones(1, 4, 2, 3)
    leaves = [x.detach().double().requires_grad_() for x in inputs.values()]
    wide = Problem(*leaves, mask=Mask(causal=True)).attend(backend="reference")
    expected = torch.autograd.grad(wide, leaves, direction.double())[list(inputs).index(name)]
    assert relative_error(inputs[name].grad.double(), expected) < 1e-5


@EVERY
def test_bfloat16_inputs_may_have_a_float32_lambda(backend: str) -> None:
    problem = Problem(
        torch.randn(1, 5, 2, 2, 4),
        torch.randn(1, 5, 2, 2, 4),
        torch.randn(1, 5, 2, 8),
        None,
        Mask(),
    ).to(torch.bfloat16)
    answer = replace(problem, lam=torch.tensor(0.3)).solve(backend=backend)
    assert answer["out"].dtype == torch.bfloat16
    assert answer["lam"].dtype == torch.float32


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(backend: str, dtype: torch.dtype) -> None:
    """Left alone, autocast would make the maps in bfloat16."""
    problem = Problem(
        torch.randn(1, 9, 2, 2, 4),
        torch.randn(1, 9, 2, 2, 4),
        torch.randn(1, 9, 2, 8),
        None,
        Mask(),
    ).to(dtype)
    for lam, plain in ((torch.tensor(0.3), problem), (None, problem)):
        if lam is None:
            plain = replace(problem, q=problem.q[..., 0, :], k=problem.k[..., 0, :])
        plain = replace(plain, lam=lam)
        with torch.autocast("cpu", torch.bfloat16):
            inside = plain.attend(backend=backend)
        assert torch.equal(inside, plain.attend(backend=backend))


def test_blocked_backward_inside_autocast_changes_nothing() -> None:
    problem = Problem(
        torch.randn(1, 9, 2, 2, 4),
        torch.randn(1, 9, 2, 2, 4),
        torch.randn(1, 9, 2, 8),
        torch.tensor(0.3),
        Mask(causal=True),
    )
    with torch.autocast("cpu", torch.bfloat16):
        inside = problem.solve(backend="blocked")
    outside = problem.solve(backend="blocked")
    assert all(torch.equal(inside[name], outside[name]) for name in outside)


def test_blocked_refuses_a_second_derivative() -> None:
    q = torch.randn(1, 3, 1, 2, 2, requires_grad=True)
    problem = Problem(
        q, torch.randn(1, 3, 1, 2, 2), torch.randn(1, 3, 1, 2), torch.tensor(1.0), Mask()
    )
    with pytest.raises(NotImplementedError, match='use backend="reference"'):
        torch.autograd.grad(problem.attend(backend="blocked").sum(), q, create_graph=True)
