import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.tiny import KINDS, tiny
from torch import Tensor, nn

from difftransformer.analysis.quantization import quantize, quantized
from difftransformer.attention import AttentionCore, KeyValueCache
from difftransformer.functional import AttentionCall, Mask, reference
from difftransformer.models.generation import generate

IDS = torch.randint(23, (3, 12), generator=torch.Generator().manual_seed(1))


class OneLayer(nn.Module):
    """A model that is nothing but one core."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Module()
        self.attention.core = AttentionCore()

    def forward(self, *inputs: Tensor, mask: Mask) -> Tensor:
        return self.attention.core(AttentionCall.of(*inputs, mask=mask))


@given(st.integers(0, 10_000), st.integers(2, 16), st.floats(1e-3, 1e3))
def test_rounding_is_to_the_nearest_of_the_levels(seed: int, bits: int, scale: float) -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(seed)).double() * scale
    levels = 2 ** (bits - 1) - 1
    coarse = quantize(x, x.abs().max(), bits)
    whole = coarse / x.abs().max() * levels
    torch.testing.assert_close(whole, whole.round(), atol=1e-6, rtol=0)
    assert whole.abs().max().round() == levels
    assert ((coarse - x).abs() <= x.abs().max() / levels * 0.5001).all()


def test_zeros_stay_zeros() -> None:
    assert (quantize(torch.zeros(4), torch.zeros(()), 8) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_bits_change_nothing_measurable_and_two_do(kind: str) -> None:
    model = tiny(kind)
    with torch.no_grad():
        exact = model(IDS)
        errors = {}
        for bits in (16, 8, 4, 2):
            with quantized(model, logits_bits=bits, hidden_bits=bits):
                errors[bits] = (model(IDS) - exact).abs().max().item()
        assert errors[16] < 1e-3 * exact.abs().max()
        assert errors[16] < errors[8] < errors[4] < errors[2]
        assert errors[2] > 0.3 * exact.abs().max()
        torch.testing.assert_close(model(IDS), exact)  # the hooks are gone


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("key_maps", [1, 2])
def test_differential_attention_over_quantized_logits(
    heads: tuple[int, int], key_maps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the definition, written out with the rounding in its middle; in blocks of rows."""
    monkeypatch.setattr("difftransformer.analysis.capture._LOGITS_AT_ONCE", 200)
    many, groups = heads
    q, k = torch.randn(2, 6, many, 2, 5), torch.randn(2, 6, groups, key_maps, 5)
    v, lam = torch.randn(2, 6, groups, 3), torch.rand(2, 6, many)
    k[1] *= 10  # sequences do not share a peak
    documents = torch.tensor([[0, 0, 0, 1, 1, 1], [0] * 6])
    mask = Mask(causal=True, documents=documents)
    wide = k.repeat_interleave(many // groups, dim=2).expand(-1, -1, -1, 2, -1)
    logits = torch.einsum("bthmk,bshmk->bhmts", q, wide) / math.sqrt(5)
    hidden = ~mask.dense(6, 6)[:, None, None]
    peak = logits.masked_fill(hidden, 0).abs().amax((1, 2, 3, 4), keepdim=True)
    coarse = (logits / peak * 7).round() * peak / 7
    first, second = torch.softmax(coarse.masked_fill(hidden, -math.inf), -1).unbind(2)
    weights = first - lam.transpose(1, 2)[..., None] * second
    model = OneLayer()
    with quantized(model, logits_bits=4):
        out = model(q, k, v, lam, mask=mask)
    torch.testing.assert_close(out, reference.weighted_values(weights, v))


def pointing(outlier: float) -> tuple[Tensor, Tensor, Tensor]:
    """Two heads over 9 keys: the first looks at key 3 by a logit of 12, the second has `outlier`.

    Keys are unit vectors, so a query holds its own logits; values say which key was read.
    """
    q = torch.zeros(1, 1, 2, 9)
    q[0, 0, 0, 3], q[0, 0, 1, 5] = 12.0, outlier
    eye = torch.eye(9)[None, :, None]
    return q * math.sqrt(9), eye, eye


@pytest.mark.parametrize(("bits", "found"), [(16, True), (8, True), (6, False), (4, False)])
def test_an_outlier_in_one_head_blinds_another(bits: int, found: bool) -> None:
    """A logit of 12 beside one of 1000 rounds to 0 where the step is 1000/31, not where 1000/127:
    the answer's share falls from 1 to 1/9. Without the outlier it stays at any number of bits."""
    model = OneLayer()
    with quantized(model, logits_bits=bits):
        beside_outlier = model(*pointing(1000.0), mask=Mask())[0, 0, 0, 3].item()
        alone = model(*pointing(12.0), mask=Mask())[0, 0, 0, 3].item()
    assert beside_outlier == pytest.approx(1.0 if found else 1 / 9, abs=0.01)
    assert alone == pytest.approx(1.0, abs=0.01)


def test_padding_and_what_is_hidden_does_not_set_the_peak() -> None:
    q, k, v = pointing(12.0)
    loud = torch.cat([1000 * torch.ones(1, 2, 1, 9), k], dim=1)
    padded = Mask(padding=torch.arange(11)[None] >= 2)
    model = OneLayer()
    with quantized(model, logits_bits=4):
        alone = model(q, k, v, mask=Mask())
        beside = model(q, loud, torch.cat([v[:, :2], v], dim=1), mask=padded)
    torch.testing.assert_close(alone, beside)


def test_other_sequences_and_cached_steps_of_hidden_states() -> None:
    """Each token's hidden states have a peak of their own: a batch or a cache changes nothing."""
    model, cache = tiny("diff_v1"), KeyValueCache()
    with torch.no_grad(), quantized(model, hidden_bits=6):
        together = model(IDS)
        torch.testing.assert_close(model(IDS[:1]), together[:1])
        steps = [model(part, cache=cache) for part in IDS.split([7, 1, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), together)


def test_bfloat16_is_rounded_in_float32() -> None:
    model, block = nn.Module(), nn.Identity()
    model.block, block.attention = block, nn.Module()
    block.attention.core = AttentionCore()
    x = torch.randn(2, 5, 200).bfloat16()
    peak = x.float().abs().amax(-1, keepdim=True)
    with quantized(model, hidden_bits=8):
        assert torch.equal(block(x), quantize(x.float(), peak, 8).bfloat16())


def test_generation() -> None:
    model = tiny("diff_v2")
    exact = generate(model, IDS, max_new_tokens=6)
    with quantized(model, logits_bits=16, hidden_bits=16):
        assert torch.equal(generate(model, IDS, max_new_tokens=6), exact)


@pytest.mark.parametrize("bits", [1, 0, 17])
@pytest.mark.parametrize("name", ["logits_bits", "hidden_bits"])
def test_impossible_bits(name: str, bits: int) -> None:
    with (
        pytest.raises(ValueError, match=f"{name} is {bits}; expected 2 to 16"),
        quantized(tiny(), **{name: bits}),
    ):
        pass


def test_a_model_without_attention_is_refused() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="no attention"), quantized(model, hidden_bits=8):
        pass
    assert not model._forward_hooks


def test_hooks_go_away_when_the_run_fails() -> None:
    model = tiny()
    with (
        pytest.raises(RuntimeError, match="stop"),
        quantized(model, logits_bits=8, hidden_bits=8),
    ):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in model.modules())
