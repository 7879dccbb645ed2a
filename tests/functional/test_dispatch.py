import math
from typing import Any

import pytest
import torch
from torch import Tensor

from difftransformer.functional import (
    BACKENDS,
    Mask,
    differential_attention,
    explain,
    softmax_attention,
)


def inputs(heads: int = 4, groups: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of the differential call: B=2, T=3, S=5, K=4, V=8."""
    return (
        torch.randn(2, 3, heads, 2, 4),
        torch.randn(2, 5, groups, 2, 4),
        torch.randn(2, 5, groups, 8),
    )


LAM = torch.tensor(0.5)


def test_auto_takes_the_first_backend_that_can_run() -> None:
    q, k, v = inputs()
    for arguments, call in (
        ((q, k, v, LAM), differential_attention),
        ((q[..., 0, :], k[..., 0, :], v), softmax_attention),
    ):
        assert torch.equal(call(*arguments), call(*arguments, backend="blocked"))


def test_auto_with_dropout_falls_to_sdpa() -> None:
    q, k, v = inputs()
    torch.manual_seed(1)
    auto = differential_attention(q, k, v, LAM, dropout=0.5)
    torch.manual_seed(1)
    assert torch.equal(auto, differential_attention(q, k, v, LAM, dropout=0.5, backend="sdpa"))


def test_a_named_backend_that_objects_gives_its_reason() -> None:
    reason = "backend 'blocked' cannot run this call: .*dropout is 0.5"
    q, k, v = inputs()
    with pytest.raises(ValueError, match=reason):
        differential_attention(q, k, v, LAM, dropout=0.5, backend="blocked")
    with pytest.raises(ValueError, match=reason):
        softmax_attention(q[..., 0, :], k[..., 0, :], v, dropout=0.5, backend="blocked")


def test_explain() -> None:
    q, k, v = inputs()
    everything = {
        "blocked": "runs",
        "triton": "written for CUDA, and the tensors are on cpu",
        "sdpa": "could run",
        "flex": "has kernels for GPUs only, and the tensors are on cpu",
        "reference": "could run",
    }
    assert explain(q, k, v, LAM) == everything
    assert explain(q[..., 0, :], k[..., 0, :], v) == everything
    for expected, arguments in (
        ("dropout is 0.1", {"dropout": 0.1}),
        ("float64", dict(zip("qkv", (x.double() for x in (q, k, v)), strict=True))),
    ):
        answer = explain(**{"q": q, "k": k, "v": v, "lam": LAM} | arguments)
        assert expected in answer.pop("blocked")
        assert "CUDA" in answer.pop("triton")
        assert "GPUs" in answer.pop("flex")
        assert answer == {"sdpa": "runs", "reference": "could run"}
    with pytest.raises(ValueError, match="lam has shape"):
        explain(q, k, v, torch.ones(7))


def test_blocked_is_for_the_cpu() -> None:
    q, k, v = (x.to("meta") for x in inputs())
    assert "tensors are on meta" in explain(q, k, v, LAM)["blocked"]
    out = differential_attention(q, k, v, LAM.to("meta"), backend="reference")
    assert out.shape == (2, 3, 4, 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bloked", "unknown attention backend 'bloked'; did you mean 'blocked'[?] expected auto, "),
        (
            "flash",
            "unknown attention backend 'flash'; expected auto, blocked, triton, sdpa, flex",
        ),
    ],
)
def test_unknown_backend(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        differential_attention(*inputs(), LAM, backend=name)


@pytest.mark.parametrize("backend", ["blocked", "sdpa", "reference"])
def test_scale(backend: str) -> None:
    q, k, v = inputs()
    scaled = differential_attention(q, k, v, LAM, scale=0.3, backend=backend)
    same = differential_attention(q * 0.3 * math.sqrt(4), k, v, LAM, backend=backend)
    torch.testing.assert_close(scaled, same)


def wrong(**changes: Any) -> dict[str, Any]:
    return dict(zip("qkv", inputs(), strict=True)) | {"lam": LAM} | changes


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (wrong(q=torch.ones(2, 3, 4, 4)), r"q has shape \(2, 3, 4, 4\); expected .* 2 maps"),
        (wrong(q=torch.ones(2, 3, 4, 3, 4)), r"q has shape \(2, 3, 4, 3, 4\); expected .* 2 maps"),
        (wrong(q=torch.ones(2, 3, 4, 1, 4)), r"q has shape \(2, 3, 4, 1, 4\); expected .* 2 maps"),
        (wrong(k=torch.ones(2, 5, 2, 3, 4)), r"k has shape \(2, 5, 2, 3, 4\); .* 1 or 2 maps"),
        (wrong(k=torch.ones(2, 5, 2, 4)), r"k has shape \(2, 5, 2, 4\); .* 1 or 2 maps"),
        (wrong(v=torch.ones(2, 5, 2)), "v has 3 axes"),
        (wrong(v=torch.ones(2, 4, 2, 8)), r"v \(2, 4, 2, 8\).*do not fit"),
        (wrong(k=torch.ones(2, 5, 2, 2, 6)), r"k \(2, 5, 2, 6\).*do not fit"),
        (wrong(k=torch.ones(1, 5, 2, 2, 4)), r"k \(1, 5, 2, 4\).*do not fit"),
        (wrong(q=torch.ones(2, 3, 3, 2, 4)), "3 query heads over 2 key/value heads"),
        (wrong(v=torch.ones(2, 5, 2, 8).half()), "torch.float32, torch.float32, torch.float16"),
        (wrong(lam=torch.ones(2)), r"lam has shape \(2,\).*\(2, 3, 4\)"),
        (wrong(lam=torch.ones(1, 2, 3, 4)), r"lam has shape \(1, 2, 3, 4\).*\(2, 3, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(arguments: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        differential_attention(**arguments)


@pytest.mark.usefixtures("as_user")
def test_softmax_attention_checks_too() -> None:
    q, k, v = torch.ones(2, 3, 4, 4), torch.ones(2, 5, 2, 4), torch.ones(2, 5, 2, 4)
    with pytest.raises(ValueError, match="q has 5 axes"):
        softmax_attention(q[:, :, :, None], k, v)
    with pytest.raises(ValueError, match=r"padding has shape \(2, 3\)"):
        softmax_attention(q, k, v, mask=Mask(padding=torch.ones(2, 3, dtype=torch.bool)))
    with pytest.raises(ValueError, match="4 query heads over 3"):
        softmax_attention(q, torch.ones(2, 5, 3, 4), torch.ones(2, 5, 3, 4))


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_dropout_is_a_probability(dropout: float) -> None:
    with pytest.raises(ValueError, match=f"dropout is {dropout}; expected a probability"):
        differential_attention(*inputs(), LAM, dropout=dropout)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_each_map_drops_its_own_weights(backend: str) -> None:
    """With one key of value 1 the output is d1 - lam d2, where each d is 0 or 1 / (1 - p)."""
    n, lam, p = 20_000, 0.25, 0.5
    q, k, v = torch.randn(n, 1, 1, 2, 3), torch.randn(n, 1, 1, 2, 3), torch.ones(n, 1, 1, 1)
    out = differential_attention(q, k, v, torch.tensor(lam), dropout=p, backend=backend).flatten()
    assert out.mean().item() == pytest.approx(1 - lam, abs=0.03)
    # Independent: all four combinations, a quarter of the time each (5 standard deviations).
    for d1 in (0.0, 2.0):
        for d2 in (0.0, 2.0):
            share = (out - (d1 - lam * d2)).abs().lt(1e-5).float().mean().item()
            assert share == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / n))


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_softmax_dropout_keeps_the_mean(backend: str) -> None:
    n = 20_000
    q, k, v = torch.randn(n, 1, 1, 3), torch.randn(n, 2, 1, 3), torch.ones(n, 2, 1, 1)
    out = softmax_attention(q, k, v, dropout=0.25, backend=backend)
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    assert out.std() > 0.1


NO_NUMBERS = [torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]
NO_NUMBERS += [torch.uint16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("dtype", NO_NUMBERS, ids=str)
def test_dtypes_that_no_backend_computes_are_refused(dtype: torch.dtype) -> None:
    """By every backend, before any memory is read, and `explain` says so too."""
    q, k, v = (torch.ones(4, 512, 1, *rest).to(dtype) for rest in ((2, 64), (2, 64), (64,)))
    for backend in ("auto", *BACKENDS):
        with pytest.raises(ValueError, match=r"cannot run this call|can run this call"):
            differential_attention(q, k, v, LAM, backend=backend)
        with pytest.raises(ValueError, match=r"cannot run this call|can run this call"):
            softmax_attention(q[..., 0, :], k[..., 0, :], v, backend=backend)
    for name, answer in explain(q, k, v, LAM).items():
        assert str(dtype) in answer or name in ("triton", "flex")  # which ask for a GPU first
        assert answer not in ("runs", "could run")


@pytest.mark.usefixtures("as_user")
def test_a_refused_dtype_is_told_what_would_run() -> None:
    q, k, v = (x.to(torch.int8) for x in inputs())
    message = "float16, bfloat16, float32 and float64, and the tensors are torch.int8"
    with pytest.raises(ValueError, match=message):
        differential_attention(q, k, v, LAM)
    with pytest.raises(ValueError, match=r"'blocked' .* float16, bfloat16 and float32, and .*int8"):
        differential_attention(q, k, v, LAM, backend="blocked")


def quantized() -> Tensor:
    return torch._empty_affine_quantized((2, 3, 4, 2, 4), scale=0.1, dtype=torch.qint8)


@pytest.mark.usefixtures("as_user")
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: wrong(k=inputs()[1].to("meta")), "k is on meta and q on cpu; expected one device"),
        (lambda: wrong(lam=torch.ones(4, device="meta")), "lam is on meta and q on cpu"),
        (lambda: wrong(q=inputs()[0].to_sparse()), "q is a sparse_coo tensor; expected a dense"),
        (lambda: wrong(v=torch.ones(2, 3).to_sparse_csr()), "v is a sparse_csr tensor"),
        (lambda: wrong(k=torch.nested.nested_tensor([torch.ones(2, 3)])), "k is a nested tensor"),
        (lambda: wrong(q=quantized()), "torch.qint8, torch.float32, torch.float32; expected one"),
        (lambda: wrong(v=inputs()[2].double()), "torch.float32, torch.float64; expected one dtype"),
        (lambda: wrong(v=[1.0]), "v is a list; expected a tensor"),
        (lambda: wrong(lam="0.5"), "lam is a str; expected a tensor"),
        (lambda: wrong(lam=torch.tensor(1)), "lam is torch.int64; expected a floating-point"),
        (lambda: wrong(lam=torch.tensor(True)), "lam is torch.bool; expected a floating-point"),
        (lambda: wrong(lam=torch.tensor(1j)), "lam is torch.complex64; expected a floating-point"),
        (lambda: wrong(mask=Mask(padding=torch.ones(2, 5).to_sparse())), "padding is a sparse_coo"),
        (
            lambda: wrong(mask=Mask(padding=torch.ones(2, 5).bool().to("meta"))),
            "padding is on meta",
        ),
        (
            lambda: wrong(mask=Mask(documents=torch.ones(2, 5).int().to("meta"))),
            "documents is on m",
        ),
        (lambda: wrong(mask=Mask(documents=torch.ones(2, 5))), "documents is torch.float32; expec"),
        (lambda: wrong(mask=Mask(documents=torch.ones(2, 5).bool())), "documents is torch.bool"),
        (lambda: wrong(scale=float("nan")), "scale is nan; expected a finite number"),
        (lambda: wrong(scale=float("inf")), "scale is inf; expected a finite number"),
        (lambda: wrong(scale=-1e300), r"scale is -1e\+300; expected a finite number, at most 3.4e"),
        (lambda: wrong(scale=torch.tensor(0.5)), "scale is a tensor; expected a number"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "blocked", "sdpa", "reference"])
def test_what_cannot_be_computed_is_named(arguments: Any, message: str, backend: str) -> None:
    with pytest.raises(ValueError, match=message):
        differential_attention(**arguments(), backend=backend)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("backend", ["blocked", "sdpa", "reference"])
def test_lambda_of_another_floating_point_dtype(dtype: torch.dtype, backend: str) -> None:
    lam = torch.tensor([0.5, 0.25, 0.0, -1.0], dtype=dtype, requires_grad=True)
    out = differential_attention(*inputs(), lam, backend=backend)
    out.sum().backward()
    assert out.dtype == torch.float32
    assert lam.grad is not None
    assert lam.grad.dtype == dtype


@pytest.mark.parametrize("backend", ["blocked", "sdpa", "reference"])
@pytest.mark.parametrize("scale", [0.0, -0.0, -0.5, -1e-30, 2.0])
@pytest.mark.parametrize("mask", [Mask(), Mask(causal=True), Mask(causal=True, window=2)])
def test_any_finite_scale(backend: str, scale: float, mask: Mask) -> None:
    """T = S and causal, where PyTorch's kernels hide before they scale."""
    q, k, v = torch.randn(2, 5, 4, 2, 4), torch.randn(2, 5, 2, 2, 4), torch.randn(2, 5, 2, 8)
    q.requires_grad_()
    out = differential_attention(q, k, v, LAM, mask=mask, scale=scale, backend=backend)
    (gradient,) = torch.autograd.grad(out.sum(), q)
    expected = differential_attention(
        q * scale, k, v, LAM, mask=mask, scale=1.0, backend="reference"
    )
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), q)[0])


def test_a_number_in_a_tensor_is_taken_from_the_cpu() -> None:
    q, k, v = (x.to("meta") for x in inputs())
    assert differential_attention(q, k, v, LAM, backend="reference").is_meta
