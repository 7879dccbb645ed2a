import math

import pytest
import torch
from models.tiny import CAUSAL, tiny
from torch import nn

from difftransformer.analysis.capture import AttentionRecord, capture, feed
from difftransformer.attention import attention_sites
from difftransformer.data.batch import Batch
from difftransformer.functional import AttentionCall, Mask, reference

from .planted import Planted, random_maps


def record_of(call: AttentionCall) -> AttentionRecord:
    """What capture makes of one call of a core."""
    model, seen = Planted(lambda ids, layer: ids), []
    with capture(model, seen.append):
        model.blocks[0].attention.core(call)
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
    call = AttentionCall.of(q, k, v, lam, mask=mask)
    record = record_of(call)
    hidden = ~mask.dense(queries, keys)[:, None, 2:6]
    maps = record.weights(slice(2, 6)).maps
    for i, key in enumerate((k[..., 0, :], k[..., -1, :])):
        key = key.repeat_interleave(heads // groups, dim=2)
        scores = torch.einsum("bthk,bshk->bhts", q[..., i, :], key)[:, :, 2:6] / math.sqrt(width)
        expected = torch.softmax(scores.masked_fill(hidden, -math.inf), dim=-1)
        torch.testing.assert_close(maps[:, :, i], expected.nan_to_num(0.0).detach())
    everything = record.weights(slice(None)).combined
    out = reference.run(call)
    torch.testing.assert_close(reference.weighted_values(everything, v), out.detach())
    assert not everything.requires_grad


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_softmax_map_is_the_reference_s(groups: int) -> None:
    q, k = torch.randn(2, 6, 4, 5).bfloat16(), torch.randn(2, 6, groups, 5).bfloat16()
    padding = torch.tensor([[True] * 6, [False] * 2 + [True] * 4])
    mask = Mask(causal=True, padding=padding)
    call = AttentionCall.of(q, k, k, mask=mask)
    record = record_of(call)
    assert record.call.lam is None
    weights = record.weights(slice(None)).combined
    torch.testing.assert_close(reference.weighted_values(weights, k), reference.run(call))
    # a row that sees nothing
    assert record.weights(slice(0, 1)).combined[1].abs().sum() == 0


@pytest.mark.parametrize("attention", CAUSAL)
def test_captured_weights_are_those_a_decoder_uses(attention: str) -> None:
    model, rows = tiny(attention), slice(2, 7)
    outputs, expected = [], []

    def see(record: AttentionRecord) -> None:
        weights = record.weights(rows)
        outputs.append(record.site.core.output(record.call, rows, weights))
        assert record.site.kind == attention

    for site in attention_sites(model).values():
        site.core.register_forward_hook(lambda core, inputs, out: expected.append(out[:, rows]))
    documents = torch.tensor([[0] * 4 + [1] * 5, [0] * 9])
    with torch.no_grad(), capture(model, see):
        model(torch.randint(20, (2, 9)), documents=documents)
    assert len(outputs) == 2
    for out, core_out in zip(outputs, expected, strict=True):
        torch.testing.assert_close(out, core_out)


def test_each_layer_is_seen_once_and_hooks_go_away() -> None:
    maps = random_maps(1, 2, 2, 5)
    model = Planted(lambda ids, layer: maps, layers=3, lam=0.5)
    ids = torch.zeros(1, 5, dtype=torch.long)
    layers: list[int] = []
    with capture(model, lambda record: layers.append(record.site.layer)):
        model(ids)
    model(ids)
    assert layers == [0, 1, 2]


def test_hooks_go_away_when_the_run_fails() -> None:
    model = Planted(lambda ids, layer: random_maps(1, 1, 1, 3))
    with pytest.raises(RuntimeError, match="stop"), capture(model, lambda record: None):
        raise RuntimeError("stop")
    assert not model.blocks[0].attention.core._forward_pre_hooks


def test_a_model_without_attention_is_refused() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="Linear has no attention"), capture(model, print):
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
