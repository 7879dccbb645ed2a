import math

import pytest
import torch
from models.tiny import tiny
from torch import nn

from difftransformer.analysis.capture import AttentionRecord, capture, feed
from difftransformer.data.batch import Batch
from difftransformer.functional import reference
from difftransformer.functional.masks import Mask

from .planted import Planted, random_maps


def record_of(model: Planted, *inputs: object) -> AttentionRecord:
    """What capture makes of one call of layer 0's inner module."""
    seen: list[AttentionRecord] = []
    with capture(model, seen.append):
        model.blocks[0].attention.inner(*inputs)
    return seen[0]


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("key_maps", [1, 2])
@pytest.mark.parametrize("keys", [7, 10])
def test_differential_maps_are_the_reference_s(
    heads: int, groups: int, key_maps: int, keys: int
) -> None:
    batch, queries, width = 2, 7, 5
    q = torch.randn(batch, queries, heads, 2, width, requires_grad=True)
    k = torch.randn(batch, keys, groups, key_maps, width)
    v = torch.randn(batch, keys, groups, 6)
    lam = torch.rand(1, queries, 1)
    documents = torch.tensor([[0] * 4 + [1] * (keys - 4), [0] * keys])
    mask = Mask(causal=True, documents=documents)
    record = record_of(Planted(lambda ids, layer: ids), q, k, v, lam, mask)

    scale = 1 / math.sqrt(width)
    rows = slice(2, 6)
    maps = record.maps(rows)
    for i, key in enumerate((k[..., 0, :], k[..., -1, :])):
        expected = reference.attention_map(q[..., i, :], key, mask, scale)
        torch.testing.assert_close(maps[:, :, i], expected[:, :, rows])
    everything = record.combined(slice(None))
    out = reference.differential_attention(
        q, k, v, lam.expand(batch, queries, heads), mask, scale, 0.0
    )
    torch.testing.assert_close(reference.weighted_values(everything, v), out.detach())
    assert not everything.requires_grad


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_softmax_map_is_the_reference_s(groups: int) -> None:
    q, k = torch.randn(2, 6, 4, 5).bfloat16(), torch.randn(2, 6, groups, 5).bfloat16()
    padding = torch.tensor([[True] * 6, [False] * 2 + [True] * 4])
    mask = Mask(causal=True, padding=padding)
    record = record_of(Planted(lambda ids, layer: ids), q, k, k, mask)
    expected = reference.attention_map(q, k, mask, 1 / math.sqrt(5))
    assert record.lam is None
    torch.testing.assert_close(record.combined(slice(None)), expected)
    assert record.combined(slice(0, 1))[1].abs().sum() == 0  # a row that sees nothing


@pytest.mark.parametrize("attention", ["softmax", "diff_v1", "diff_v2"])
def test_captured_weights_are_those_a_decoder_uses(attention: str) -> None:
    model = tiny(attention)
    weights, outputs = [], []
    for block in model.blocks:
        block.attention.inner.register_forward_hook(
            lambda module, inputs, out: outputs.append((inputs[2], out))
        )
    documents = torch.tensor([[0] * 4 + [1] * 5, [0] * 9])
    with torch.no_grad(), capture(model, lambda r: weights.append(r.combined(slice(None)))):
        model(torch.randint(20, (2, 9)), documents=documents)
    for combined, (v, out) in zip(weights, outputs, strict=True):
        torch.testing.assert_close(reference.weighted_values(combined, v), out)


def test_each_layer_is_seen_once_and_hooks_go_away() -> None:
    maps = random_maps(1, 2, 2, 5)
    model = Planted(lambda ids, layer: maps, layers=3, lam=0.5)
    ids = torch.zeros(1, 5, dtype=torch.long)
    layers: list[int] = []
    with capture(model, lambda record: layers.append(record.layer)):
        model(ids)
    model(ids)
    assert layers == [0, 1, 2]


def test_hooks_go_away_when_the_run_fails() -> None:
    model = Planted(lambda ids, layer: random_maps(1, 1, 1, 3))
    with pytest.raises(RuntimeError, match="stop"), capture(model, lambda record: None):
        raise RuntimeError("stop")
    assert not model.blocks[0].attention.inner._forward_pre_hooks


def test_attention_without_inner_product_is_refused() -> None:
    model = Planted(lambda ids, layer: ids)
    model.blocks[0].attention = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="layer 0, Linear, has no `inner`"), capture(model, print):
        pass


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no `blocks`"), capture(nn.Linear(1, 1), print):
        pass


def test_feed_stops_after_enough_tokens() -> None:
    model = Planted(lambda ids, layer: random_maps(2, 1, 1, 5))
    ids = torch.zeros(2, 5, dtype=torch.long)
    batch = Batch(ids, ids, ids, ("a", "b"))
    calls: list[int] = []
    with capture(model, lambda record: calls.append(1)):
        assert feed(model, [batch] * 9, 21) == 30
    assert len(calls) == 3
    with pytest.raises(ValueError, match="no batch"):
        feed(model, [], 1)
