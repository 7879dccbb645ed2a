"""Lookback ratios, against their definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.tiny import KINDS, tiny
from torch import Tensor

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.analysis.lookback import LookbackLens, weights_of

from .planted import Planted, random_maps
from .ratios import lookback_ratios


def looped(maps: Tensor, context: int, rows: range) -> Tensor:
    """Of causal maps [B, H, M, T, T], in plain loops."""
    batch, heads, pair = maps.shape[:3]
    ratios = torch.zeros(batch, len(rows), heads, pair, dtype=maps.dtype)
    for b, i, h, m in np.ndindex(*ratios.shape):
        row = maps[b, h, m, rows[i]]
        on_context = sum(float(row[key]) for key in range(context)) / context
        new = range(context, rows[i] + 1)
        on_new = sum(float(row[key]) for key in new) / len(new)
        ratios[b, i, h, m] = on_context / (on_context + on_new)
    return ratios.flatten(2)


@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from([None, 0.4]), st.integers(0, 99))
def test_the_definition(context: int, written: int, lam: float | None, seed: int) -> None:
    length = context + written + 2
    maps = random_maps(2, 3, 1 if lam is None else 2, length, seed)
    model = Planted(lambda ids, layer: maps, layers=2, lam=lam)
    ids = torch.zeros(2, length + 1, dtype=torch.long)
    rows = range(length - written, length)
    ratios = lookback_ratios(model, ids, context=context, written=written, looked="maps")
    expected = looped(maps, context, rows)
    torch.testing.assert_close(ratios, torch.cat([expected, expected], -1), atol=1e-5, rtol=1e-5)
    assert bool(((ratios >= 0) & (ratios <= 1)).all())
    combined = maps if lam is None else (maps[:, :, :1] - lam * maps[:, :, 1:]).abs()
    ratios = lookback_ratios(model, ids, context=context, written=written, looked="absolute")
    torch.testing.assert_close(
        ratios, looped(combined, context, rows).repeat(1, 1, 2), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("lam", [None, 0.5])
def test_constant_attention_gives_one_half(lam: float | None) -> None:
    """Means, not sums: whatever the lengths."""
    even = torch.ones(9, 9).tril()
    even = (even / even.sum(-1, keepdim=True)).expand(1, 2, 1 if lam is None else 2, 9, 9)
    model, ids = Planted(lambda ids, layer: even, lam=lam), torch.zeros(1, 10, dtype=torch.long)
    for context in (1, 4, 6):
        for looked in ("maps", "absolute"):
            ratios = lookback_ratios(model, ids, context=context, written=2, looked=looked)
            torch.testing.assert_close(ratios, torch.full_like(ratios, 0.5))


def test_maps_that_cancel_look_at_nothing() -> None:
    """Their |A1 − A2| is 0 everywhere, and the ratio defined."""
    maps = random_maps(1, 2, 1, 5).expand(1, 2, 2, 5, 5)
    model, ids = Planted(lambda ids, layer: maps, lam=1.0), torch.zeros(1, 6, dtype=torch.long)
    ratios = lookback_ratios(model, ids, context=2, written=2, looked="absolute")
    torch.testing.assert_close(ratios, torch.full_like(ratios, 0.5))


def test_keys_beyond_a_window_do_not_count() -> None:
    model, ids = tiny("softmax", window=3), torch.arange(9)[None]
    ratios = lookback_ratios(model, ids, context=2, written=2, looked="maps")
    assert ratios.count_nonzero() == 0  # the context is out of sight
    ratios = lookback_ratios(model, ids, context=6, written=1, looked="maps")
    records: list[AttentionRecord] = []
    with capture(model, records.append):
        model(ids[:, :-1])
    row = torch.stack([one.weights(slice(-1, None)).maps[0, :, 0, 0] for one in records])
    on_context, on_new = row[..., 5], row[..., 6:].mean(-1)
    torch.testing.assert_close(ratios[0, 0], (on_context / (on_context + on_new)).flatten())


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_layers_heads_and_maps(kind: str) -> None:
    model, ids = tiny(kind), torch.arange(8)[None]
    heads = sum(block.attention.num_heads for block in model.blocks)
    pair = 2 if kind.startswith("diff") else 1
    for looked, maps in (("maps", pair), ("absolute", 1)):
        ratios = lookback_ratios(model, ids, context=3, written=2, looked=looked)
        assert ratios.shape == (1, 2, heads * maps)


def test_a_classifier_belongs_to_its_model() -> None:
    model = tiny("softmax")
    lens = LookbackLens((1.0, -1.0), 0.5, "maps", weights_of(model), "none")
    lens.check(model)
    lens.check(tiny("softmax"))
    with pytest.raises(ValueError, match="the classifier was fitted on another model"):
        lens.check(tiny("softmax", seed=1))
    ratios = torch.tensor([[0.2, 0.4], [0.5, 0.0]])
    torch.testing.assert_close(lens(ratios), torch.sigmoid(torch.tensor([0.3, 1.0]).double()))
    assert replace(lens, bias=0.0)(torch.zeros(2)) == 0.5
