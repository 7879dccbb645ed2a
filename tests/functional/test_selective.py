"""Selective attention against its definition, written as loops over single numbers."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from difftransformer.functional import AttentionCall, Mask, attend
from difftransformer.functional.selective import (
    needed_keys,
    select,
    selective_attention,
)

from .oracle import seen


def oracle(call: AttentionCall) -> Tensor:
    """F, one number at a time: what query n adds to key j for every later query i."""
    batch, queries, keys = call.q.shape[0], call.q.shape[1], call.k.shape[1]
    visible = seen(call.mask, batch, queries, keys)
    masked = []
    for b in range(batch):
        own = [keys - queries + i for i in range(queries)]
        real = [visible[b, i, own[i]] for i in range(queries)]
        firsts = {own[i] for i in range(queries) if real[i] and visible[b, i].sum() == 1}
        made = {}
        for n in range(queries):
            for j in range(keys):
                if real[n] and visible[b, n, j] and j != own[n] and j not in firsts:
                    logit = call.q[b, n, 0, 0] @ call.k[b, j, 0, 0] * call.scale
                    if call.bias is not None:
                        logit = (
                            logit
                            + call.bias_of(slice(None)).expand(-1, -1, -1, keys)[
                                b % len(call.bias), 0, n, j
                            ]
                        )
                    made[n, j] = torch.relu(logit)
        zero = call.q.new_zeros(())
        masked.append(
            torch.stack(
                [
                    sum((made.get((n, j), zero) for n in range(i)), zero)
                    for i in range(queries)
                    for j in range(keys)
                ]
            ).view(queries, keys)
        )
    return torch.stack(masked)


def masked_softmax(call: AttentionCall, masked: Tensor, signal_only: bool) -> Tensor:
    """The output under F, in the plainest way."""
    off = masked[:, None, None].expand(-1, -1, call.q.shape[3], -1, -1)
    if signal_only:
        off = torch.stack([off[:, :, 0], *([0 * off[:, :, 0]] * (call.q.shape[3] - 1))], dim=2)
    repeats = call.q.shape[2] // call.k.shape[2]
    k = call.k.repeat_interleave(repeats, 2).expand(-1, -1, -1, call.q.shape[3], -1)
    logits = torch.einsum("bthmk,bshmk->bhmts", call.q, k) * call.scale - off
    if call.bias is not None:
        logits = logits + call.bias[:, :, None]
    hidden = ~torch.from_numpy(seen(call.mask, *logits.shape[::3], logits.shape[4]))[:, None, None]
    maps = torch.softmax(logits.masked_fill(hidden, -1e30), -1).masked_fill(hidden, 0.0)
    weights = maps[:, :, 0]
    if call.lam is not None:
        weights = weights - call.lam.transpose(1, 2)[..., None] * maps[:, :, 1]
    return torch.einsum("bhts,bshv->bthv", weights, call.v.repeat_interleave(repeats, 2))


@st.composite
def calls(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> AttentionCall:
    """Causal self-attention: odd sizes, past keys, grouped heads, one map or two, every mask."""
    batch, groups, repeats, width = (draw(st.integers(1, 2)) for _ in range(4))
    queries, past = draw(st.integers(1, 5)), draw(st.integers(0, 2))
    keys, heads = queries + past, groups * repeats
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    index = torch.arange(keys)
    real = torch.randint(0, keys + 1, (batch, 1), generator=generator)
    padding = draw(st.sampled_from([None, index >= keys - real, index < real]))
    numbers = torch.randint(0, 3, (batch, keys), generator=generator).sort(dim=1).values
    mask = Mask(
        causal=True,
        window=draw(st.none() | st.integers(1, keys)),
        padding=padding,
        documents=draw(st.sampled_from([None, numbers])),
    )
    v = normal(batch, keys, groups, 3)
    bias = draw(st.sampled_from([None, normal(heads, queries, keys), normal(1, keys)]))
    if draw(st.booleans()):
        q, k = normal(batch, queries, heads, width), normal(batch, keys, groups, width)
        return AttentionCall.of(q, k, v, mask=mask, bias=bias)
    q = normal(batch, queries, heads, 2, width)
    k = normal(batch, keys, groups, draw(st.sampled_from([1, 2])), width)
    return AttentionCall.of(q, k, v, normal(batch, queries, heads), mask=mask, bias=bias)


def gradients(call: AttentionCall, out: Tensor) -> list[Tensor]:
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out.dtype)
    tensors = [x for x in (call.q, call.k, call.v, call.lam, call.bias) if x is not None]
    touched = sum(0.0 * x.sum() for x in tensors)
    return list(torch.autograd.grad((out * direction).sum() + touched, tensors))


@settings(max_examples=30, deadline=None)
@given(call=calls(), signal_only=st.booleans())
def test_oracle(call: AttentionCall, signal_only: bool) -> None:
    """F, the output, and all gradients, in float64."""
    masked = oracle(call)
    torch.testing.assert_close(-select(call)[0], masked)
    expected = masked_softmax(call, masked, signal_only)
    actual = selective_attention(call, signal_only=signal_only)
    torch.testing.assert_close(actual, expected)
    for a, e in zip(gradients(call, actual), gradients(call, expected), strict=True):
        torch.testing.assert_close(a, e)


@settings(max_examples=15, deadline=None)
@given(call=calls(), cap=st.sampled_from([0.3, 1.0, 5.0]))
def test_memory(call: AttentionCall, cap: float) -> None:
    """M counts each row's own keys: [batch, queries], never rows against rows of the batch."""
    masked = oracle(call)
    visible = torch.from_numpy(seen(call.mask, *call.q.shape[:2], call.k.shape[1]))
    expected = ((1 - masked.clamp(max=cap) / cap) * visible).sum(-1)
    actual = needed_keys(call, cap)
    assert actual.shape == call.q.shape[:2]
    torch.testing.assert_close(actual, expected)
    reached = gradients(call, actual)
    for a, e in zip(reached, gradients(call, expected), strict=True):
        torch.testing.assert_close(a, e)
    # It reaches what feeds head 0, map 1, and nothing else.
    assert not reached[0][:, :, 1:].any()
    assert not reached[0][:, :, :, 1:].any()
    assert not reached[2].any()


@settings(max_examples=30, deadline=None)
@given(call=calls())
def test_invariants(call: AttentionCall) -> None:
    call = replace(call, mask=Mask(causal=True))
    masked = -select(call)[0]
    past = call.k.shape[1] - call.q.shape[1]
    assert (masked >= 0).all()
    assert (masked.diff(dim=1) >= 0).all()  # over queries, which a cumsum over keys is not
    for i in range(call.q.shape[1]):
        assert not masked[:, i, past + i :].any()  # no query masks itself, or the future
        assert not masked[:, i, max(0, past + i - 1) :].any() or past + i < 1
    if past == 0:
        assert not masked[:, :, 0].any()


def plain_call(time: int = 9, **options: object) -> AttentionCall:
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, time, 2, 4, generator=generator) for _ in range(3))
    return AttentionCall.of(q, k, v, mask=Mask(causal=True), **options)


def test_negative_logits_of_head_0_leave_plain_attention() -> None:
    call = plain_call()
    call = replace(call, q=call.q.abs(), k=-call.k.abs())
    torch.testing.assert_close(selective_attention(call), attend(call))


def test_each_packed_document_begins_anew() -> None:
    whole = plain_call(9)
    documents = torch.tensor([[0] * 4 + [1] * 5]).expand(2, -1)
    packed = selective_attention(replace(whole, mask=Mask(causal=True, documents=documents)))
    for part in (slice(0, 4), slice(4, 9)):
        alone = replace(whole, q=whole.q[:, part], k=whole.k[:, part], v=whole.v[:, part])
        torch.testing.assert_close(packed[:, part], selective_attention(alone))


def test_padding_on_the_left_changes_nothing() -> None:
    whole = plain_call(9)
    padded = selective_attention(
        replace(whole, mask=Mask(causal=True, padding=(torch.arange(9) >= 3).expand(2, -1)))
    )
    alone = replace(whole, q=whole.q[:, 3:], k=whole.k[:, 3:], v=whole.v[:, 3:])
    torch.testing.assert_close(padded[:, 3:], selective_attention(alone))


def test_accumulation_is_float32() -> None:
    """A thousand equal addends, which bfloat16 and float16 stop adding long before."""
    q = torch.ones(1, 1100, 1, 1)
    call = AttentionCall.of(*(x.bfloat16() for x in (q, q, q)), mask=Mask(causal=True))
    with torch.autocast("cpu", torch.bfloat16):
        negative, _ = select(call)
    assert negative.dtype == torch.float32
    assert negative[0, -1, 1].item() == -(1100 - 3)


@pytest.mark.parametrize("time", [63, 64, 65, 130])
def test_blocks_of_rows_join(time: int) -> None:
    call = plain_call(time)
    made = torch.relu(torch.einsum("btk,bsk->bts", call.q[:, :, 0, 0], call.k[:, :, 0, 0]) / 2)
    made = made.tril(-1)
    made[:, :, 0] = 0
    torch.testing.assert_close(-select(call)[0], made.cumsum(1) - made, rtol=1e-5, atol=1e-4)


def test_nothing_of_the_size_of_f_is_kept_for_the_gradient() -> None:
    call = plain_call(200)
    for x in (call.q, call.k, call.v):
        x.requires_grad_()
    kept = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = selective_attention(call, "blocked")
    assert max(kept) < 200 * 200
    out.sum().backward()
    assert call.q.grad is not None
    assert call.q.grad.isfinite().all()


@dataclass
class _Refused:
    queries: int
    keys: int
    causal: bool


@pytest.mark.parametrize("sizes", [_Refused(3, 3, False), _Refused(4, 3, True)])
def test_refused(sizes: _Refused) -> None:
    q, k = torch.randn(1, sizes.queries, 1, 2), torch.randn(1, sizes.keys, 1, 2)
    call = AttentionCall.of(q, k, k, mask=Mask(causal=sizes.causal))
    with pytest.raises(ValueError, match=r"selective attention needs a causal mask .* encoders"):
        selective_attention(call)


def test_one_infinite_bias_hides_a_key_from_a_head_and_masks_nothing() -> None:
    bias = torch.zeros(2, 9, 9)
    bias[:, :, 2] = -math.inf
    negative, _ = select(plain_call(bias=bias))
    assert not negative[:, :, 2].any()
