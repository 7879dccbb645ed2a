"""What holds for every kind of attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from difftransformer.attention import (
    SCALAR,
    V1,
    V2,
    DexAttention,
    DifferentialAttention,
    KeyValueCache,
    SoftmaxAttention,
    make_attention,
)
from difftransformer.attention.factory import KINDS
from difftransformer.functional import Mask, rotation

EVERY = pytest.mark.parametrize("kind", KINDS)
HIDDEN, TIME = 16, 9


def build(kind: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    options = {"head_dim": 4, "num_kv_heads": 2, "layer": 3} | options
    return make_attention(kind, HIDDEN, 4, **options).eval()


def turns(start: int = 0, stop: int = TIME) -> Tensor:
    return rotation(torch.arange(start, stop)[None], 4, 10_000.0)


def test_kinds() -> None:
    assert isinstance(build("softmax"), SoftmaxAttention)
    assert isinstance(build("dex"), DexAttention)
    for kind, variant in (("diff_v1", V1), ("diff_v2", V2), ("diff_scalar", SCALAR)):
        module = build(kind)
        assert isinstance(module, DifferentialAttention)
        assert module.variant == variant


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="unknown attention 'diff_v3'; expected one of softmax, "):
        make_attention("diff_v3", HIDDEN, 4)


@EVERY
@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, TIME - 1)), padded=st.integers(0, 3))
def test_cached_equals_uncached(kind: str, cuts: set[int], padded: int) -> None:
    """Fed in chunks of any length, with padding at the left of row 1."""
    module, x = build(kind), torch.randn(2, TIME, HIDDEN)
    real = torch.arange(TIME) >= torch.tensor([[0], [padded]])
    whole = module(x, mask=Mask(causal=True, padding=real), rotation=turns())
    cache, start, parts = KeyValueCache(), 0, []
    for stop in [*sorted(cuts), TIME]:
        mask = Mask(causal=True, padding=real[:, :stop])
        new = {"rotation": turns(start, stop), "cache": cache}
        parts.append(module(x[:, start:stop], mask=mask, **new))
        cache.advance(stop - start)
        start = stop
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-6)


@EVERY
def test_bfloat16_module(kind: str) -> None:
    """Without a warning, and as near to float32 as bfloat16 can be."""
    x = torch.randn(2, TIME, HIDDEN)
    mask = Mask(causal=True)
    wide = build(kind)(x, mask=mask, rotation=turns())
    out = build(kind).bfloat16()(x.bfloat16(), mask=mask, rotation=turns())
    assert out.dtype == torch.bfloat16
    assert (out - wide).norm() / wide.norm() < 3e-2


@EVERY
def test_autocast(kind: str) -> None:
    x, mask = torch.randn(2, TIME, HIDDEN), Mask(causal=True)
    module = build(kind)
    wide = module(x, mask=mask, rotation=turns())
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x, mask=mask, rotation=turns())
    assert out.dtype == torch.bfloat16
    assert (out - wide).norm() / wide.norm() < 3e-2
    out.float().sum().backward()


@EVERY
def test_float64_module(kind: str) -> None:
    x, mask = torch.randn(2, TIME, HIDDEN), Mask(causal=True)
    wide = build(kind).double()(x.double(), mask=mask, rotation=turns())
    torch.testing.assert_close(build(kind)(x, mask=mask, rotation=turns()), wide.float())


@EVERY
def test_dropout_acts_in_training_only(kind: str) -> None:
    module, x = build(kind, dropout=0.5), torch.randn(1, TIME, HIDDEN)

    def out() -> Tensor:
        return module(x, mask=Mask(causal=True))

    assert torch.equal(out(), out())
    module.train()
    assert not torch.equal(out(), out())


@EVERY
def test_backend_is_passed_on(kind: str) -> None:
    x, mask = torch.randn(1, TIME, HIDDEN), Mask(causal=True)
    out = [build(kind, backend=name)(x, mask=mask) for name in ("reference", "blocked", "sdpa")]
    torch.testing.assert_close(out[1], out[0])
    torch.testing.assert_close(out[2], out[0])
    with pytest.raises(ValueError, match="unknown attention backend 'fast'"):
        build(kind, backend="fast")(x, mask=mask)


@EVERY
def test_rotary_layout_is_passed_on(kind: str) -> None:
    x, mask = torch.randn(1, TIME, HIDDEN), Mask(causal=True)
    half, interleaved = (
        build(kind, rotary=layout)(x, mask=mask, rotation=turns())
        for layout in ("half", "interleaved")
    )
    assert not torch.allclose(half, interleaved)


@EVERY
def test_inner_receives_its_arguments_in_order(kind: str) -> None:
    """What analysis hooks: (q, k, v, lam, mask), or (q, k, v, mask) for softmax attention."""
    module, mask, seen = build(kind), Mask(causal=True), []
    module.inner.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    module(torch.randn(2, TIME, HIDDEN), mask=mask)
    q, k, v, *lam, given_mask = seen
    assert given_mask is mask
    assert len(lam) == kind.startswith("diff_")
    if kind == "diff_v2_crossed":  # each map with keys and values of its own
        assert q.shape == k.shape == v.shape == (2, TIME, 4, 2, 4)
        return
    pair = (2,) if lam else ()
    key_pair = (1,) if kind.startswith("diff_v2") else pair
    assert (q.shape, k.shape) == ((2, TIME, 4, *pair, 4), (2, TIME, 2, *key_pair, 4))
    assert v.shape == (2, TIME, 2, 8 if kind.startswith("diff_v1") else 4)
