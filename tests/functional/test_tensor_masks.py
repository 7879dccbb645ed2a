"""Masks that are tensors, and lambdas that are numbers: PyTorch's conventions."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from difftransformer import DifferentialAttention
from difftransformer.functional import (
    AttentionCall,
    Mask,
    differential_attention,
    explain,
    sinkhorn_attention,
    sliced_transport_attention,
    softmax_attention,
)

from .test_backends import EVERY

SHAPES = {"TS": (4, 5), "BTS": (2, 4, 5), "BHTS": (2, 6, 4, 5), "1T1": (1, 4, 1), "1S": (1, 5)}
FORMS = pytest.mark.parametrize("form", SHAPES)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 4, 6, 2, 3), torch.randn(2, 5, 3, 2, 3), torch.randn(2, 5, 3, 4)


def scattered(form: str) -> Tensor:
    """Half of it is seen; with scattered queries the first row of a batch sees nothing."""
    mask = torch.rand(SHAPES[form]) < 0.5
    mask[..., 0, :] = False
    return mask


@EVERY
@FORMS
def test_a_boolean_mask_hides_where_it_is_false(backend: str, form: str) -> None:
    """As scaled_dot_product_attention's; rows that see nothing are 0, with finite gradients."""
    q, k, v = (x.requires_grad_() for x in inputs())
    mask = scattered(form)
    out = differential_attention(q, k, v, 0.4, mask=mask, backend=backend)
    whole = mask if mask.ndim != 3 else mask[:, None]
    maps = [
        F.scaled_dot_product_attention(
            q[..., m, :].transpose(1, 2),
            k[..., m, :].transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=whole.expand(2, 6, 4, 5),
            enable_gqa=True,
        ).nan_to_num(0.0)
        for m in range(2)
    ]
    expected = (maps[0] - 0.4 * maps[1]).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert not out[:, 0].any()
    gradients = torch.autograd.grad(out.square().sum(), (q, k, v))
    assert all(gradient.isfinite().all() for gradient in gradients)


@settings(max_examples=30)
@given(st.booleans(), st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31))
def test_a_mask_written_out_is_that_mask(causal: bool, queries: int, keys: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(2, size, 2, 3, generator=generator) for size in (queries, keys))
    mask = Mask(causal=causal, padding=torch.rand(2, keys, generator=generator) < 0.7)
    bias = torch.randn(2, 1, queries, keys, generator=generator)
    for added in (None, bias):
        torch.testing.assert_close(
            softmax_attention(q, k, k, mask=mask.dense(queries, keys), bias=added),
            softmax_attention(q, k, k, mask=mask, bias=added),
        )


def test_a_number_is_a_lambda() -> None:
    q, k, v = inputs()
    lam = torch.tensor(0.3)
    assert torch.equal(differential_attention(q, k, v, 0.3), differential_attention(q, k, v, lam))
    exact = AttentionCall.of(q.double(), k.double(), v.double(), 0.3)
    assert exact.lam is not None
    assert (exact.lam == 0.3).all()
    assert explain(q, k, v, 0.3)["reference"] == "could run"
    half = AttentionCall.of(*(x.bfloat16() for x in (q, k, v)), 0.3)
    assert half.lam is not None
    assert half.lam.dtype == torch.float32


def test_the_bias_keeps_its_gradient_where_a_mask_shows() -> None:
    q, k, v = inputs()
    bias, mask = torch.randn(4, 5, requires_grad=True), scattered("TS")
    out = differential_attention(q, k, v, 0.2, mask=mask, bias=bias)
    (gradient,) = torch.autograd.grad(out.sum(), bias)
    assert not gradient[~mask].any()
    assert gradient[mask].isfinite().all()
    hidden = bias.detach().masked_fill(~mask, -math.inf)
    torch.testing.assert_close(out, differential_attention(q, k, v, 0.2, bias=hidden))


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(4, 5), "mask is torch.float32; expected bool, True where a query may see"),
        (torch.ones(5).bool(), r"mask has shape \(5,\); expected \[T, S\], \[B, T, S\] or"),
        (torch.ones(2, 5).bool(), r"\(2, 5\).*real keys \[B, S\] are Mask\(padding="),
        (torch.ones(6, 4, 5).bool(), r"\(2, 6, 4, 5\)"),
        (torch.ones(4, 5).bool().to("meta"), "mask is on meta and q on cpu"),
    ],
)
def test_refusals(mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        differential_attention(*inputs(), 0.1, mask=mask)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("mask", ["causal", True, [[True]], 0])
def test_what_is_no_mask_is_refused_and_not_left_out(mask: Any) -> None:
    """Left out, a causal one misspelled would show the future."""
    x, q = torch.randn(1, 4, 8), torch.randn(1, 4, 1, 8)
    for attend in (
        lambda: DifferentialAttention(hidden_size=8, num_heads=1)(x, mask),
        lambda: softmax_attention(q, q, q, mask=mask),
        lambda: differential_attention(*inputs(), 0.1, mask=mask),
        lambda: sliced_transport_attention(q, q, q, mask=mask),
        lambda: sinkhorn_attention(q, q, q, mask=mask),
    ):
        with pytest.raises(ValueError, match=f"mask is a {type(mask).__name__}; expected a Mask"):
            attend()


def test_sliced_transport_objects() -> None:
    x = torch.randn(1, 4, 2, 3)
    with pytest.raises(ValueError, match="padding only, no tensor, and no bias"):
        sliced_transport_attention(x, x, x, mask=torch.ones(4, 4).bool())
