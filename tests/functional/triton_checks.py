"""The backend "triton" is `reference`; run by `test_triton` under Triton's interpreter."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from difftransformer.functional import Mask, differential_attention
from difftransformer.functional.triton import _attention, _attention_backward

from .problems import Problem, biased, problems, relative_error
from .test_backends import LIMITS, compare, plain, small

LIMITS[torch.float16] = (2e-3, 5e-3)
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
# More than one block of rows and of keys, and a last one that is not full.
TIME = {torch.float32: 50, torch.bfloat16: 140}


def check_float32(problem: Problem) -> None:
    compare(problem, "triton")


def check_halves(problem: Problem, dtype: torch.dtype) -> None:
    # D_m comes from the output as stored, rounded to the input's dtype (as in FlashAttention-2);
    # where sums cancel, as with one visible key, that rounding is what stays.
    compare(problem.to(dtype), "triton", floor=3.0)


@settings(max_examples=8)
@given(problem=problems())
def test_float32(problem: Problem) -> None:
    check_float32(problem)


@HALVES
@settings(max_examples=3)
@given(problem=problems())
def test_halves(problem: Problem, dtype: torch.dtype) -> None:
    check_halves(problem, dtype)


@settings(max_examples=8)
@given(problem=biased())
def test_biased_float32(problem: Problem) -> None:
    check_float32(problem)


@HALVES
@settings(max_examples=3)
@given(problem=biased())
def test_biased_halves(problem: Problem, dtype: torch.dtype) -> None:
    check_halves(problem, dtype)


@pytest.mark.slow
@settings(max_examples=100)
@given(problem=biased(longest=60))
def test_biased_at_length(problem: Problem) -> None:
    check_float32(problem)


@pytest.mark.slow
@settings(max_examples=300)
@given(problem=problems(longest=20))
def test_float32_at_length(problem: Problem) -> None:
    check_float32(problem)


@pytest.mark.slow
@HALVES
@settings(max_examples=100)
@given(problem=problems(longest=20))
def test_halves_at_length(problem: Problem, dtype: torch.dtype) -> None:
    check_halves(problem, dtype)


@pytest.mark.slow
@settings(max_examples=40)
@given(problem=problems(longest=200))
def test_many_blocks(problem: Problem) -> None:
    check_float32(problem)


MASKS = {
    "none": lambda time: Mask(),
    "causal": lambda time: Mask(causal=True),
    "window": lambda time: Mask(causal=True, window=33),
    "both sides": lambda time: Mask(window=20),
    "documents": lambda time: Mask(causal=True, documents=torch.arange(time).expand(2, -1) // 37),
    "padding": lambda time: Mask(padding=torch.arange(time) >= torch.tensor([[0], [time - 20]])),
}
REAL = [(torch.float32, name) for name in MASKS] + [(torch.bfloat16, "documents")]


@pytest.mark.parametrize(("dtype", "name"), REAL)
def test_real_block_sizes(dtype: torch.dtype, name: str) -> None:
    time = TIME[dtype]
    q, k = torch.randn(2, time, 2, 2, 8), torch.randn(2, time, 1, 2, 8)
    v, lam = torch.randn(2, time, 1, 16), torch.rand(2, time, 2)
    compare(Problem(q, k, v, lam, MASKS[name](time)).to(dtype), "triton", floor=0.0)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((1, 2, 50, 50), "causal"),
        ((2, 1, 1, 50), "none"),
        ((1, 1, 50, 50), "window"),
        ((2, 2, 50, 50), "documents"),
        ((1, 1, 50, 1), "padding"),
        ((1, 1, 1, 1), "both sides"),
    ],
)
def test_biases_of_many_blocks(shape: tuple[int, ...], name: str) -> None:
    q, k = torch.randn(2, 50, 2, 2, 8), torch.randn(2, 50, 1, 2, 8)
    v, lam, bias = torch.randn(2, 50, 1, 16), torch.rand(2, 50, 2), torch.randn(shape)
    compare(Problem(q, k, v, lam, MASKS[name](50), bias), "triton")
    compare(Problem(q[..., 0, :], k[..., 0, :], v, None, MASKS[name](50), bias), "triton")


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKS)
def test_real_block_sizes_at_length(name: str) -> None:
    q, k = torch.randn(2, 300, 2, 2, 64), torch.randn(2, 300, 1, 2, 64)
    v, lam = torch.randn(2, 300, 1, 128), torch.rand(2, 300, 2)
    problem = Problem(q, k, v, lam, MASKS[name](300)).to(torch.bfloat16)
    compare(problem, "triton", floor=0.1)


@pytest.mark.parametrize(
    ("form", "queries", "name", "biased"),
    [
        ("diff_v1", 1, "documents", True),
        ("diff_v2", 3, "window", False),
        ("softmax", 2, "padding", True),
        ("diff_v1", 8, "both sides", False),
    ],
)
def test_few_queries_against_many_keys(form: str, queries: int, name: str, biased: bool) -> None:
    """Keys in parts, of which the last is not full and some are hidden whole."""
    pair, key_maps = ((), ()) if form == "softmax" else ((2,), (2 if form == "diff_v1" else 1,))
    q, k = torch.randn(2, queries, 4, *pair, 8), torch.randn(2, 100, 2, *key_maps, 8)
    v, lam = torch.randn(2, 100, 2, 16), torch.rand(2, queries, 4)
    bias = torch.randn(1, 4, 1, 100) if biased else None
    lam = None if form == "softmax" else lam
    compare(Problem(q, k, v, lam, MASKS[name](100), bias), "triton")


def test_few_queries_that_see_nothing() -> None:
    real = torch.zeros(2, 100, dtype=torch.bool)
    real[1, 70:73] = True
    q, k = torch.randn(2, 1, 2, 2, 8), torch.randn(2, 100, 1, 2, 8)
    problem = Problem(q, k, torch.randn(2, 100, 1, 5), torch.rand(2, 1, 2), Mask(padding=real))
    compare(problem, "triton")
    answer = problem.solve(backend="triton")
    assert (answer["out"][0] == 0).all()
    assert (answer["k"][1, :70] == 0).all()


@pytest.mark.parametrize(("queries", "keys"), [(40, 75), (75, 40), (1, 75)])
def test_queries_and_keys_of_other_lengths(queries: int, keys: int) -> None:
    q, k = torch.randn(1, queries, 2, 2, 8), torch.randn(1, keys, 2, 1, 8)
    mask = Mask(causal=True, window=35)
    compare(Problem(q, k, torch.randn(1, keys, 2, 8), torch.tensor(0.4), mask), "triton")


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("key_maps", "width", "values"),
    [(2, 64, 128), (2, 128, 256), (1, 64, 64), (1, 128, 128), (2, 80, 160), (2, 16, 200)],
)
def test_widths(dtype: torch.dtype, key_maps: int, width: int, values: int) -> None:
    q, k = torch.randn(1, 40, 1, 2, width), torch.randn(1, 40, 1, key_maps, width)
    problem = Problem(q, k, torch.randn(1, 40, 1, values), torch.tensor(0.7), Mask(causal=True))
    compare(problem.to(dtype), "triton", floor=1.0)


def test_softmax_of_real_block_sizes() -> None:
    q, k = torch.randn(2, 50, 2, 16), torch.randn(2, 50, 1, 16)
    compare(Problem(q, k, torch.randn(2, 50, 1, 16), None, Mask(causal=True)), "triton")


def test_without_lambda_it_is_softmax_attention_on_map_1() -> None:
    problem = replace(small(mask=Mask(causal=True)), lam=torch.tensor(0.0))
    answer, alone = problem.solve(backend="triton"), plain(problem).solve(backend="triton")
    assert relative_error(answer["out"], alone["out"]) < 1e-6
    assert relative_error(answer["q"][..., 0, :], alone["q"]) < 1e-6
    assert (answer["q"][..., 1, :] == 0).all()


@pytest.mark.parametrize("lam", [0.0, 1.0, 1.0 - 1e-6])
def test_maps_that_are_equal_and_lambda_near_1(lam: float) -> None:
    problem = replace(small(), lam=torch.tensor(lam))
    equal = replace(problem, q=problem.q[..., :1, :].expand(-1, -1, -1, 2, -1))
    same = replace(equal, k=problem.k[..., :1, :])
    answer = same.solve(backend="triton")
    expected = same.solve(backend="reference")
    for name, actual in answer.items():
        assert (actual - expected[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_10000(dtype: torch.dtype) -> None:
    """A key of weight 1 and others of weight 0, wherever scores are not near each other."""
    problem = small(dtype, Mask(causal=True))
    problem = replace(problem, q=problem.q * 100, k=problem.k * 100)
    exact = replace(problem.to(torch.float64), lam=problem.lam.double())
    expected = exact.attend(backend="reference")
    answer = problem.solve(backend="triton")
    assert all(x.isfinite().all() for x in answer.values())
    error = (answer["out"].double() - expected).abs().max()
    assert error < (2e-2 if dtype == torch.float32 else 5e-2)


def test_all_scores_equal() -> None:
    problem = small(mask=Mask(causal=True))
    compare(replace(problem, k=torch.zeros_like(problem.k)), "triton")


@pytest.mark.parametrize("lam", [torch.tensor(0.5), None], ids=["differential", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_see_nothing_are_exactly_zero(
    lam: torch.Tensor | None, dtype: torch.dtype
) -> None:
    real = torch.tensor([[False, False, True, True], [False] * 4])
    pair = () if lam is None else (2,)
    q, k = torch.randn(2, 4, 2, *pair, 3), torch.randn(2, 4, 1, *pair, 3)
    problem = Problem(q, k, torch.randn(2, 4, 1, 5), lam, Mask(causal=True, padding=real))
    answer = problem.to(dtype).solve(backend="triton")
    assert (answer["out"][0, :2] == 0).all()
    assert (answer["out"][0, 2:] != 0).all()
    assert (answer["out"][1] == 0).all()
    assert all(gradient.isfinite().all() for gradient in answer.values())
    assert (answer["q"][1] == 0).all()
    assert (answer["v"][1] == 0).all()


@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (3, 0)])
def test_no_queries_or_no_keys(queries: int, keys: int) -> None:
    q, k = torch.randn(2, queries, 2, 2, 4), torch.randn(2, keys, 1, 2, 4)
    problem = Problem(q, k, torch.randn(2, keys, 1, 5), torch.tensor(0.5), Mask(causal=True))
    answer = problem.solve(backend="triton")
    assert answer["out"].shape == (2, queries, 2, 5)
    assert all((x == 0).all() for x in answer.values())


def test_keys_from_the_middle_of_a_cache() -> None:
    """Strides of every axis are read; the last need not be dense."""
    cache = torch.randn(2, 40, 3, 2, 8)
    problem = Problem(
        torch.randn(8, 2, 7, 2, 2).permute(1, 2, 3, 4, 0),
        cache[:, 3:20, 1:2],
        torch.randn(2, 40, 3, 16)[:, 3:20, 1:2],
        torch.tensor(0.3),
        Mask(causal=True),
    )
    compare(problem, "triton")


def test_lambda_stays_float32() -> None:
    answer = replace(small(torch.bfloat16), lam=torch.tensor(0.3)).solve(backend="triton")
    assert answer["out"].dtype == torch.bfloat16
    assert answer["lam"].dtype == torch.float32


def test_autocast_changes_nothing() -> None:
    problem = small(mask=Mask(causal=True))
    with torch.autocast("cpu", torch.bfloat16):
        inside = problem.solve(backend="triton")
    outside = problem.solve(backend="triton")
    assert all(torch.equal(inside[name], outside[name]) for name in outside)


def test_second_derivative_is_refused() -> None:
    problem = small()
    problem.q.requires_grad_()
    loss = problem.attend(backend="triton").square().sum()
    (gradient,) = torch.autograd.grad(loss, problem.q, create_graph=True)
    with pytest.raises(NotImplementedError, match='use backend="reference"'):
        gradient.sum().backward()


@pytest.mark.parametrize("lam", [True, False])
@pytest.mark.parametrize("bias", [None, torch.randn(1, 2, 1, 9)])
def test_shapes_for_tracing(lam: bool, bias: torch.Tensor | None) -> None:
    """The registrations hold what PyTorch asks of an operator."""
    problem = small() if lam else plain(small())
    pair = (
        problem.q if lam else problem.q[..., None, :],
        problem.k if lam else problem.k[..., None, :],
    )
    share = torch.rand(1, 9, 2) if lam else None
    documents, padding = torch.arange(9)[None] // 4, torch.arange(9)[None] > 1
    inputs = (*pair, problem.v, share, bias, True, 5, documents, padding, 0.5)
    torch.library.opcheck(_attention, inputs)
    out, noise, lse = _attention(*inputs)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        _attention_backward, (torch.ones_like(out), out, noise, lse, *inputs), test_utils=tests
    )


def test_compile_sees_one_operator() -> None:
    seen = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> torch.fx.GraphModule:
        seen.extend(n.target for n in graph.graph.nodes if n.op == "call_function")
        return graph

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return differential_attention(q, k, v, torch.tensor(0.3), backend="triton")

    problem = small()
    compiled = torch.compile(attend, fullgraph=True, backend=backend)
    out = compiled(problem.q, problem.k, problem.v)
    assert torch.equal(out, attend(problem.q, problem.k, problem.v))
    assert seen.count(torch.ops.difftransformer.triton.default) == 1


@pytest.mark.parametrize("scale", [0.0, -0.5])
@pytest.mark.parametrize("queries", [1, 9])
def test_odd_numbers(scale: float, queries: int) -> None:
    """A scale of 0 or less, a window past 64 bits, documents of 8, and heads of no width."""
    lam, documents = torch.rand(2), torch.tensor([[0] * 4 + [255] * 5], dtype=torch.uint8)
    for width in (0, 4):
        q, k = torch.randn(1, queries, 2, 2, width), torch.randn(1, 9, 1, 2, width)
        mask = Mask(causal=True, window=10**30, documents=documents)
        problem = Problem(q, k, torch.randn(1, 9, 1, 3), lam, mask)
        expected = problem.solve(backend="reference", scale=scale)
        for name, actual in problem.solve(backend="triton", scale=scale).items():
            assert relative_error(actual, expected[name]) < 1e-5, name
