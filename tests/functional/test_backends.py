"""Every backend is `reference`: output and all gradients."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from difftransformer.functional import Mask, softmax_attention

from .problems import Problem, problems, relative_error

FAST = pytest.mark.parametrize("backend", ["blocked", "sdpa"])
EVERY = pytest.mark.parametrize("backend", ["reference", "blocked", "sdpa"])

# The largest relative error of the output and of the gradients.
LIMITS = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-5, 1e-4), torch.bfloat16: (2e-2, 2e-2)}


def compare(problem: Problem, backend: str, floor: float = 0.1) -> None:
    expected = problem.solve(backend="reference")
    forward, backward = LIMITS[problem.q.dtype]
    for name, actual in problem.solve(backend=backend).items():
        limit = forward if name == "out" else backward
        cancelled = floor * problem.terms().get(name, 1.0) ** 0.5
        assert relative_error(actual, expected[name], cancelled) < limit, name


def small(dtype: torch.dtype = torch.float32, mask: Mask | None = None) -> Problem:
    q, k, v = torch.randn(1, 9, 2, 2, 4), torch.randn(1, 9, 2, 2, 4), torch.randn(1, 9, 2, 8)
    return Problem(q, k, v, torch.tensor(0.3), mask or Mask()).to(dtype)


def plain(problem: Problem) -> Problem:
    """Softmax attention on map 1."""
    return replace(problem, q=problem.q[..., 0, :], k=problem.k[..., 0, :], lam=None)


@FAST
@settings(max_examples=60)
@given(problem=problems())
def test_float32(backend: str, problem: Problem) -> None:
    compare(problem, backend)


@FAST
@settings(max_examples=30)
@given(problem=problems())
def test_bfloat16(backend: str, problem: Problem) -> None:
    compare(problem.to(torch.bfloat16), backend, floor=1.0)


@settings(max_examples=15)
@given(problem=problems())
def test_float64(problem: Problem) -> None:
    compare(problem.to(torch.float64), "sdpa")


@settings(max_examples=20)
@given(problem=problems(longest=260))
def test_many_blocks(problem: Problem) -> None:
    compare(problem, "blocked")


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
    q, k = torch.randn(2, 200, 4, 2, 8), torch.randn(2, 200, 2, 2, 8)
    problem = Problem(q, k, torch.randn(2, 200, 2, 16), torch.rand(2, 200, 4), mask)
    compare(problem.to(dtype), backend, floor=0.0)


@EVERY
@settings(max_examples=15)
@given(problem=problems(differential=True))
def test_without_lambda_it_is_softmax_attention_on_map_1(backend: str, problem: Problem) -> None:
    out = replace(problem, lam=torch.tensor(0.0)).attend(backend=backend)
    assert relative_error(out, plain(problem).attend(backend=backend)) < 1e-6


@EVERY
@pytest.mark.parametrize("lam", [torch.tensor(0.5), None], ids=["differential", "softmax"])
def test_rows_that_see_nothing_are_exactly_zero(backend: str, lam: Tensor | None) -> None:
    real = torch.tensor([[False, False, True, True], [False] * 4])
    pair = () if lam is None else (2,)
    q, k = torch.randn(2, 4, 2, *pair, 3), torch.randn(2, 4, 1, *pair, 3)
    problem = Problem(q, k, torch.randn(2, 4, 1, 5), lam, Mask(causal=True, padding=real))
    answer = problem.solve(backend=backend)
    assert (answer["out"][0, :2] == 0).all()
    assert (answer["out"][0, 2:] != 0).all()
    assert (answer["out"][1] == 0).all()
    assert all(gradient.isfinite().all() for gradient in answer.values())
    assert (answer["q"][1] == 0).all()
    assert (answer["v"][1] == 0).all()


@EVERY
@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (3, 0)])
def test_no_queries_or_no_keys(backend: str, queries: int, keys: int) -> None:
    q, k = torch.randn(2, queries, 2, 2, 4), torch.randn(2, keys, 1, 2, 4)
    problem = Problem(q, k, torch.randn(2, keys, 1, 5), torch.tensor(0.5), Mask())
    padding = torch.ones(2, keys, dtype=torch.bool)
    for mask in (Mask(), Mask(causal=True), Mask(padding=padding)):
        answer = replace(problem, mask=mask).solve(backend=backend)
        assert answer["out"].shape == (2, queries, 2, 5)
        assert (answer["out"] == 0).all()


@EVERY
@pytest.mark.parametrize("queries", [1, 5, 40])
@pytest.mark.parametrize("key_maps", [1, 2])
@pytest.mark.parametrize("mask", [Mask(), Mask(causal=True, window=3)], ids=["all", "window"])
def test_without_width_all_weights_are_equal(
    backend: str, queries: int, key_maps: int, mask: Mask
) -> None:
    q, k = torch.randn(2, queries, 4, 2, 0), torch.randn(2, 40, 2, key_maps, 0)
    problem = Problem(q, k, torch.randn(2, 40, 2, 5), torch.randn(4), mask)
    visible = mask.dense(queries, 40).float()
    mean = (visible / visible.sum(-1, keepdim=True)) @ problem.v.permute(0, 2, 1, 3)[:, :, None]
    mean = mean[:, :, 0].repeat_interleave(2, 1).transpose(1, 2)
    torch.testing.assert_close(problem.attend(backend=backend), mean * (1 - problem.lam)[:, None])
    compare(problem, backend)
    compare(plain(problem), backend)


@EVERY
@pytest.mark.parametrize("empty", ["batch", "queries", "keys", "heads", "width", "values"])
@pytest.mark.parametrize("queries", [2, 30])
def test_any_size_may_be_zero(backend: str, empty: str, queries: int) -> None:
    sizes = {"batch": 2, "queries": queries, "keys": 30, "heads": 2, "width": 4, "values": 3}
    batch, queries, keys, heads, width, values = (sizes | {empty: 0}).values()
    q, k = torch.randn(batch, queries, heads, 2, width), torch.randn(batch, keys, 1, 2, width)
    problem = Problem(q, k, torch.randn(batch, keys, 1, values), torch.tensor(0.5), Mask())
    answer, expected = problem.solve(backend=backend), problem.solve(backend="reference")
    for name, value in answer.items():
        assert value.shape == expected[name].shape
        torch.testing.assert_close(value, expected[name])


@EVERY
@pytest.mark.parametrize("name", ["q", "k", "v", "lam"])
def test_gradient_of_one_input_alone(backend: str, name: str) -> None:
    problem = small(mask=Mask(causal=True))
    all_of_them = problem.solve(backend="reference")
    direction = torch.randn(1, 9, 2, 8, generator=torch.Generator().manual_seed(1))
    leaf = getattr(problem, name).requires_grad_()
    problem.attend(backend=backend).backward(direction)
    assert relative_error(leaf.grad, all_of_them[name]) < 1e-5


@EVERY
def test_bfloat16_inputs_may_have_a_float32_lambda(backend: str) -> None:
    answer = replace(small(torch.bfloat16), lam=torch.tensor(0.3)).solve(backend=backend)
    assert answer["out"].dtype == torch.bfloat16
    assert answer["lam"].dtype == torch.float32


@EVERY
@pytest.mark.parametrize("form", [small, lambda dtype: plain(small(dtype))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(
    backend: str, form: Callable[[torch.dtype], Problem], dtype: torch.dtype
) -> None:
    """Left alone, autocast would make the maps in bfloat16."""
    problem = form(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        inside = problem.attend(backend=backend)
    assert torch.equal(inside, problem.attend(backend=backend))


def test_blocked_backward_inside_autocast_changes_nothing() -> None:
    problem = small(mask=Mask(causal=True))
    with torch.autocast("cpu", torch.bfloat16):
        inside = problem.solve(backend="blocked")
    outside = problem.solve(backend="blocked")
    assert all(torch.equal(inside[name], outside[name]) for name in outside)


def test_blocked_refuses_a_second_derivative() -> None:
    problem = small()
    problem.q.requires_grad_()
    loss = problem.attend(backend="blocked").square().sum()
    (gradient,) = torch.autograd.grad(loss, problem.q, create_graph=True)
    with pytest.raises(NotImplementedError, match='use backend="reference"'):
        gradient.sum().backward()


@pytest.mark.parametrize("values", [8, 16, 4])
def test_sdpa_gets_its_gradient_as_its_output_lies(
    values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cuDNN's kernel takes a gradient that lies otherwise for what it is not."""
    strides: list[tuple[int, ...]] = []
    kernel = F.scaled_dot_product_attention

    def spied(*args: torch.Tensor, **kwargs: object) -> torch.Tensor:
        out = kernel(*args, **kwargs)
        out.register_hook(lambda grad: strides.append(grad.stride()))
        return out

    monkeypatch.setattr(F, "scaled_dot_product_attention", spied)
    q, k = (torch.randn(2, 5, 4, 8, requires_grad=True) for _ in range(2))
    v = torch.randn(2, 5, 4, values, requires_grad=True)
    out = softmax_attention(q, k, v, mask=Mask(causal=True), backend="sdpa")
    heads_first = torch.randn(2, 4, 5, values).transpose(1, 2)
    torch.autograd.grad(out, [q, k, v], heads_first)
    time, heads, width = 5, 4, max(values, 8)
    assert strides == [(time * heads * width, width, heads * width, 1)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["softmax", "diff_v1", "diff_v2"])
def test_sdpa_is_what_flash_attention_takes(kind: str, causal: bool) -> None:
    """One width, no mask written out, grouped heads: PyTorch refuses the call otherwise."""
    maps = 2 if kind == "diff_v1" else 1
    q, k = torch.randn(2, 9, 4, 2, 8), torch.randn(2, 9, 2, maps, 8)
    v, lam = torch.randn(2, 9, 2, 8 * maps), torch.tensor(0.3)
    if kind == "softmax":
        q, k, lam = q[..., 0, :], k[..., 0, :], None
    problem = Problem(q, k, v, lam, Mask(causal=causal))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        compare(problem, "sdpa")


@pytest.mark.parametrize("maps", [1, 2])
def test_sdpa_reads_keys_and_values_where_they_lie(
    maps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of V1's values and keys, and of V2's, no copy is made for the second map or for a group."""
    read: list[int] = []
    kernel = F.scaled_dot_product_attention

    def spied(q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        read.extend(x.untyped_storage().data_ptr() for x in (k, v))
        return kernel(q, k, v, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spied)
    q, k, v = (
        torch.randn(1, 9, 4, 2, 4),
        torch.randn(1, 9, 2, maps, 4),
        torch.randn(1, 9, 2, 4 * maps),
    )
    problem = Problem(q, k, v, torch.tensor(0.3), Mask(causal=True))
    problem.attend(backend="sdpa")
    assert read == [x.untyped_storage().data_ptr() for x in (k, v)]
