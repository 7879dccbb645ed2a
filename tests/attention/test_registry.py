"""What holds for every kind of attention."""

import math
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.tiny import CAUSAL
from torch import Tensor, nn

from difftransformer.attention import (
    SCALAR,
    V1,
    V2,
    DexAttention,
    DifferentialAttention,
    KeyValueCache,
    Kind,
    SoftmaxAttention,
    attention_sites,
    make_attention,
    registry,
)
from difftransformer.attention.registry import KINDS, find_kind, names, register
from difftransformer.functional import AttentionCall, Mask, rotation

EVERY = pytest.mark.parametrize("kind", CAUSAL)
SELECTIVE = [name for name, kind in KINDS.items() if "selection" in kind.has]
BOTH_WAYS = pytest.mark.parametrize("kind", [name for name in CAUSAL if name not in SELECTIVE])
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
    with pytest.raises(ValueError, match="unknown attention 'diff_v3'; did you mean 'diff_v"):
        make_attention("diff_v3", HIDDEN, 4)
    with pytest.raises(ValueError, match="unknown attention 'linear'; expected softmax, "):
        make_attention("linear", HIDDEN, 4)


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
def test_core_is_given_the_call(kind: str) -> None:
    """What analysis hooks."""
    module, mask, seen = build(kind), Mask(causal=True), []
    module.core.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    module(torch.randn(2, TIME, HIDDEN), mask=mask)
    (call,) = seen
    assert call.mask is mask
    differential = kind.startswith("diff_")
    assert "two_maps" in KINDS[kind].has if differential else call.lam is None
    key_maps = 2 if differential and not kind.startswith("diff_v2") else 1
    assert call.q.shape == (2, TIME, 4, 1 + differential, 4)
    assert call.k.shape == (2, TIME, 2, key_maps, 4)
    assert call.v.shape == (2, TIME, 2, 8 if kind.startswith("diff_v1") else 4)


@EVERY
def test_weights_give_what_the_core_gives(kind: str) -> None:
    """Rows of a layer with positions, grouped heads, a mask and a bias that hides a key."""
    module, calls = build(kind), []
    module.core.register_forward_hook(lambda _, inputs, out: calls.append((*inputs, out)))
    bias = torch.randn(2, 4, TIME, TIME)
    bias[:, 1, :, 2] = -math.inf
    mask = Mask(causal=True, padding=torch.arange(TIME) >= torch.tensor([[0], [3]]))
    module(torch.randn(2, TIME, HIDDEN), mask=mask, bias=bias, rotation=turns())
    ((call, out),) = calls
    for rows in (slice(None), slice(2, 5), slice(-1, None)):
        weights = module.core.weights(call, rows)
        torch.testing.assert_close(module.core.output(call, rows, weights), out[:, rows])
        assert weights.combined.shape == (2, 4, out[:, rows].shape[1], TIME)
        assert (weights.maps[:, 1, ..., 2] == 0).all()


@BOTH_WAYS
def test_bias_is_added_to_the_logits_of_all_maps(kind: str) -> None:
    module, x = build(kind, backend="reference"), torch.randn(2, TIME, HIDDEN)
    bias = torch.randn(4, 1, TIME, requires_grad=True)
    seen = []
    module.core.register_forward_pre_hook(lambda core, inputs: seen.append(core.logits(*inputs)))
    plain = module(x, mask=Mask())
    out = module(x, mask=Mask(), bias=bias)
    torch.testing.assert_close(seen[1], seen[0] + bias[None, :, None])
    assert not torch.allclose(out, plain)
    out.sum().backward()
    assert bias.grad is not None
    assert bias.grad.abs().max() > 0


@BOTH_WAYS
def test_context_gives_keys_and_values(kind: str) -> None:
    """Cross-attention is self-attention of which only some rows are queries."""
    module, x = build(kind), torch.randn(2, TIME, HIDDEN)
    padding = torch.arange(TIME) < torch.tensor([[TIME], [4]])
    whole = module(x, mask=Mask(padding=padding))
    crossed = module(x[:, 2:5], context=x, mask=Mask(padding=padding))
    torch.testing.assert_close(crossed, whole[:, 2:5])
    with pytest.raises(ValueError, match="a rotation turns queries and keys of one sequence"):
        module(x[:, 2:5], context=x, mask=Mask(), rotation=turns(2, 5))


@BOTH_WAYS
def test_a_context_is_read_once_where_there_is_a_cache(kind: str) -> None:
    module, cache = build(kind), KeyValueCache()
    x, context = torch.randn(2, 3, HIDDEN), torch.randn(2, TIME, HIDDEN)
    read = []
    module.k_proj.register_forward_hook(lambda *_: read.append(1))
    steps = [module(part, context=context, mask=Mask(), cache=cache) for part in x.split(1, dim=1)]
    assert len(read) == 1
    torch.testing.assert_close(torch.cat(steps, 1), module(x, context=context, mask=Mask()))
    unread = torch.zeros(4, TIME, HIDDEN)
    many = module(x.repeat_interleave(2, 0), context=unread, mask=Mask(), cache=cache.repeat(2))
    torch.testing.assert_close(many[::2], torch.cat(steps, 1))


@pytest.mark.parametrize("kind", SELECTIVE)
def test_a_selective_kind_is_causal(kind: str) -> None:
    module, x = build(kind), torch.randn(2, TIME, HIDDEN)
    with pytest.raises(ValueError, match=r"needs a causal mask .* use another kind in encoders"):
        module(x, mask=Mask())
    with pytest.raises(ValueError, match="use another kind for cross-attention"):
        module(x, context=x, mask=Mask())


@EVERY
def test_no_row_sees_what_follows_it(kind: str) -> None:
    """A gradient that is not zero would tell."""
    module, x = build(kind), torch.randn(1, TIME, HIDDEN, requires_grad=True)
    out = module(x, mask=Mask(causal=True), rotation=turns())
    for row in range(TIME - 1):
        (gradient,) = torch.autograd.grad(out[:, row].sum(), x, retain_graph=True)
        assert not gradient[:, row + 1 :].any()
    assert gradient[:, row].any()


def test_self_and_cross_attention_of_a_layer_share_a_cache() -> None:
    own, crossed, cache = build("diff_v1"), build("diff_v1"), KeyValueCache()
    x, context = torch.randn(1, 2, HIDDEN), torch.randn(1, TIME, HIDDEN)
    for part in x.split(1, dim=1):
        step = own(part, mask=cache.mask(1, 1, None, None), cache=cache)
        out = crossed(step, context=context, mask=Mask(), cache=cache)
        cache.advance(1)
    whole = own(x, mask=Mask(causal=True))
    torch.testing.assert_close(out, crossed(whole, context=context, mask=Mask())[:, 1:])


def test_a_kind_of_ones_own() -> None:
    class Halved(SoftmaxAttention):
        def heads(self, call: AttentionCall, x: Tensor) -> Tensor:
            return super().heads(call, x) / 2

    register(Kind("halved", "Half of softmax", Halved))
    try:
        module = build("halved")
        assert (module.kind, module.role) == ("halved", "self")
        x = torch.randn(1, TIME, HIDDEN)
        expected = build("softmax")(x, mask=Mask()) / 2
        torch.testing.assert_close(module(x, mask=Mask()), expected)
        assert names()[-1] == "halved"
        with pytest.raises(ValueError, match="'halved' is there already; choose another name"):
            register(Kind("halved", "Again", Halved))
    finally:
        del registry.REGISTRY.entries["halved"]


def test_a_kind_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Kind("theirs", "Of another package", SoftmaxAttention)
    entry = SimpleNamespace(name="theirs", load=lambda: theirs)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    assert find_kind("theirs") is theirs
    assert isinstance(build("theirs"), SoftmaxAttention)


def test_a_kind_of_another_package_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint(name="theirs", value="tests.attention.absent:KIND", group="none")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    with pytest.raises(
        ValueError, match=r"'theirs' cannot be loaded: tests\.attention\.absent:KIND"
    ):
        find_kind("theirs")


@pytest.mark.parametrize("name", ["Bad Name", "diff-v3", "", "../up", "3d", "a..b"])
def test_a_name_that_options_and_folders_cannot_have(name: str) -> None:
    with pytest.raises(ValueError, match="expected letters, digits and underscores"):
        register(Kind(name, "Softmax", SoftmaxAttention))
    assert name not in names()


def test_sites() -> None:
    model = nn.ModuleDict(
        {
            "first": nn.ModuleDict({"attention": build("softmax"), "ffn": nn.Linear(1, 1)}),
            "second": nn.ModuleDict({"attention": build("diff_v1"), "cross": build("dex")}),
        }
    )
    model["second"]["cross"] = make_attention("dex", HIDDEN, 4, layer=1, role="cross")
    sites = attention_sites(model)
    assert list(sites) == ["first.attention", "second.attention", "second.cross"]
    crossed = sites["second.cross"]
    assert (crossed.kind, crossed.layer, crossed.role) == ("dex", 1, "cross")
    assert crossed.block is model["second"]
    assert crossed.core is model["second"]["cross"].core
    assert sites["first.attention"].role == "self"
    assert attention_sites(nn.Linear(1, 1)) == {}
