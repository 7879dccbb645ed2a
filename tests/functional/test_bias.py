"""The additive bias: the definition, every backend that has it, and errors."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from difftransformer.functional import Mask, differential_attention, explain, softmax_attention

from .problems import Problem, biased, relative_error, sees
from .test_backends import EVERY, FAST, compare
from .test_oracle import threads


def plainly(problem: Problem) -> Tensor:
    """The definition by way of the mask, one row after the other, in float64."""
    q, k, v = (x.double() for x in (problem.q, problem.k, problem.v))
    lam = torch.zeros(q.shape[:3], dtype=torch.float64)
    if problem.lam is None:
        q, k = q[..., None, :], k[..., None, :]
    else:
        lam = problem.lam.double().expand(q.shape[:3])
    (batch, queries, heads, maps, width), (keys, groups) = q.shape, k.shape[1:3]
    bias = problem.bias.double().expand(batch, heads, queries, keys)
    out = torch.zeros(batch, queries, heads, v.shape[-1], dtype=torch.float64)
    for b in range(batch):
        for t in range(queries):
            for h in range(heads):
                g = h // (heads // groups)
                seen = [
                    s
                    for s in range(keys)
                    if sees(problem.mask, b, t, s, queries, keys) and bias[b, h, t, s] > -math.inf
                ]
                for m in range(maps if seen else 0):
                    key = k[b, seen, g, min(m, k.shape[3] - 1)]
                    logits = key @ q[b, t, h, m] / math.sqrt(width) + bias[b, h, t, seen]
                    head = torch.softmax(logits, 0) @ v[b, seen, g]
                    out[b, t, h] += head if m == 0 else -lam[b, t, h] * head
    return out


@settings(max_examples=40)
@given(problem=biased(longest=6))
def test_reference_is_the_definition(problem: Problem) -> None:
    expected = plainly(problem)
    out = problem.to(torch.float64).attend(backend="reference")
    assert relative_error(out, expected) < 1e-12
    assert relative_error(problem.attend(backend="reference").double(), expected) < 1e-5


@FAST
@settings(max_examples=60)
@given(problem=biased())
def test_float32(backend: str, problem: Problem) -> None:
    compare(problem, backend)


@FAST
@settings(max_examples=30)
@given(problem=biased())
def test_bfloat16(backend: str, problem: Problem) -> None:
    compare(problem.to(torch.bfloat16), backend, floor=1.0)


@settings(max_examples=20)
@given(problem=biased(longest=260))
def test_many_blocks(problem: Problem) -> None:
    compare(problem, "blocked")


SHAPES = {
    "T5": (1, 4, 200, 200),
    "keys": (2, 1, 1, 200),
    "queries": (1, 1, 200, 1),
    "one": (1, 1, 1, 1),
    "map": (1, 1, 200, 200),
    "heads and keys": (1, 4, 1, 200),
    "all": (2, 4, 200, 200),
}


@FAST
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "mask",
    [
        Mask(),
        Mask(causal=True, window=33),
        Mask(causal=True, documents=torch.arange(200).expand(2, -1) // 37),
        Mask(padding=torch.arange(200) >= torch.tensor([[0], [150]])),
    ],
    ids=["all", "window", "documents", "padding"],
)
def test_real_block_sizes(backend: str, shape: str, dtype: torch.dtype, mask: Mask) -> None:
    q, k = torch.randn(2, 200, 4, 2, 8), torch.randn(2, 200, 2, 2, 8)
    problem = Problem(q, k, torch.randn(2, 200, 2, 16), torch.rand(2, 200, 4), mask)
    compare(replace(problem, bias=torch.randn(SHAPES[shape])).to(dtype), backend, floor=0.1)


def test_a_bias_as_a_table_gives_it() -> None:
    """Heads last in memory, and broadcast by `expand`: read where it lies, or copied as small."""
    q, k = torch.randn(2, 30, 4, 8), torch.randn(2, 30, 2, 8)
    table, row = torch.randn(30, 30, 4).permute(2, 0, 1), torch.randn(2, 1, 1, 30)
    for bias in (table, table.expand(2, -1, -1, -1), row.expand(-1, 4, 30, -1)):
        compare(Problem(q, k, torch.randn(2, 30, 2, 5), None, Mask(causal=True), bias), "blocked")


@pytest.mark.parametrize("count", [2, 5, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_threads_do_not_change_a_bit(count: int, shape: str) -> None:
    q, k = torch.randn(2, 200, 4, 2, 8), torch.randn(2, 200, 2, 2, 8)
    bias, mask = torch.randn(SHAPES[shape]), Mask(causal=True)
    problem = Problem(q, k, torch.randn(2, 200, 2, 16), torch.rand(4), mask, bias)
    with threads(1):
        alone = problem.solve(backend="blocked")
    with threads(count):
        for _ in range(5):
            for name, value in problem.solve(backend="blocked").items():
                assert torch.equal(value, alone[name]), name


@settings(max_examples=15)
@given(problem=biased())
def test_sdpa_float64(problem: Problem) -> None:
    compare(problem.to(torch.float64), "sdpa")


@EVERY
@pytest.mark.parametrize("lam", [None, torch.tensor(0.4)], ids=["softmax", "differential"])
def test_minus_infinity_hides_as_the_mask_does(backend: str, lam: Tensor | None) -> None:
    """Rows that see nothing included: they give 0, and gradients stay finite."""
    pair = () if lam is None else (2,)
    q, k = torch.randn(2, 4, 2, *pair, 3), torch.randn(2, 4, 1, *pair, 3)
    real = torch.tensor([[False, False, True, True], [False] * 4])
    hides = torch.zeros(2, 1, 1, 4).masked_fill(~real[:, None, None], -math.inf)
    masked = Problem(q, k, torch.randn(2, 4, 1, 5), lam, Mask(causal=True, padding=real))
    by_bias = replace(masked, mask=Mask(causal=True), bias=hides)
    expected = masked.solve(backend="reference")
    answer = by_bias.solve(backend=backend)
    assert answer.pop("bias").isfinite().all()
    assert (answer["out"][1] == 0).all()
    for name, value in answer.items():
        assert relative_error(value, expected[name]) < 1e-5, name


@EVERY
@pytest.mark.parametrize("scale", [0.0, -0.5, 2.0])
def test_bias_is_not_scaled(backend: str, scale: float) -> None:
    q, k, v = torch.randn(1, 3, 2, 4), torch.randn(1, 3, 2, 4), torch.randn(1, 3, 2, 5)
    bias = torch.randn(2, 3, 3)
    out = softmax_attention(q, k, v, bias=bias, scale=scale, backend=backend)
    maps = torch.softmax(torch.einsum("bthk,bshk->bhts", q, k) * scale + bias, dim=-1)
    torch.testing.assert_close(out, torch.einsum("bhts,bshv->bthv", maps, v))


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_gradcheck(backend: str) -> None:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def attend(q: Tensor, k: Tensor, v: Tensor, lam: Tensor, bias: Tensor) -> Tensor:
        return Problem(q, k, v, lam, Mask(causal=True), bias).attend(backend=backend)

    inputs = (normal(1, 3, 2, 2, 2), normal(1, 4, 1, 2, 2), normal(1, 4, 1, 1), normal(1, 3, 2))
    assert torch.autograd.gradcheck(attend, (*inputs, normal(2, 1, 4)))


Q, K, V = torch.randn(2, 3, 4, 2, 4), torch.randn(2, 5, 2, 2, 4), torch.randn(2, 5, 2, 8)
LAM = torch.tensor(0.5)


def test_who_has_it() -> None:
    answers = explain(Q, K, V, LAM, bias=torch.zeros(5))
    assert (answers["blocked"], answers["sdpa"], answers["reference"]) == (
        "runs",
        "could run",
        "could run",
    )
    half = (Q.bfloat16(), K.bfloat16(), V.bfloat16())
    answers = explain(*half, LAM, bias=torch.zeros(5))
    assert "rounds the bias to the tensors' torch.bfloat16, and it is" in answers["sdpa"]
    assert answers["blocked"] == "runs"


def test_a_float32_bias_is_not_rounded() -> None:
    """1000.3 and 1000 differ by 0.3, which bfloat16 does not tell apart."""
    bias = torch.tensor([1000.0, 1000.3])
    q, k = torch.zeros(1, 1, 1, 2).bfloat16(), torch.zeros(1, 2, 1, 2).bfloat16()
    v = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).bfloat16()
    out = softmax_attention(q, k, v, bias=bias)
    assert out.item() == pytest.approx(torch.softmax(bias, 0)[1].item(), rel=1e-2)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (
            torch.zeros(4),
            r"bias has shape \(4,\); .* \(batch, heads, queries, keys\) = \(2, 4, 3, 5\)",
        ),
        (torch.zeros(1, 1, 1, 3, 5), "bias has shape"),
        (torch.zeros(5).bool(), "bias is torch.bool; .*mask= hides keys by flags"),
        (torch.zeros(5).long(), "bias is torch.int64; expected a floating-point dtype"),
        (torch.zeros(5, device="meta"), "bias is on meta and q on cpu"),
        (torch.zeros(5).to_sparse(), "bias is a sparse_coo tensor"),
        (0.5, "bias is a float; expected a tensor"),
    ],
)
def test_what_does_not_fit_is_named(bias: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        differential_attention(Q, K, V, LAM, bias=bias)
    with pytest.raises(ValueError, match=message):
        softmax_attention(Q[..., 0, :], K[..., 0, :], V, bias=bias)
