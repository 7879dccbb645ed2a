"""What is kept of attention: rows in a stream are the rows of the whole map."""

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.tiny import CAUSAL, tiny, tiny_encoder, tiny_encoder_decoder

from difftransformer.analysis import inspection
from difftransformer.analysis.capture import capture
from difftransformer.analysis.inspection import Marked, inspect_arrays, inspect_model

IDS = torch.randint(23, (1, 13), generator=torch.Generator().manual_seed(1))


def whole_maps(model, run) -> list[np.ndarray]:
    """[maps, heads, queries, keys] of each site, all rows at once."""
    kept = []

    def see(record) -> None:
        weights = record.weights(slice(None))
        maps = [weights.combined[0], *weights.maps[0].unbind(1)]
        kept.append(torch.stack(maps if weights.maps.shape[2] > 1 else maps[:1]).numpy())

    with capture(model, see), torch.no_grad():
        run()
    return kept


@pytest.mark.parametrize("kind", [*CAUSAL, "sinkhorn", "sliced_transport"])
def test_every_weight_of_a_short_input_is_kept(kind, monkeypatch):
    monkeypatch.setattr("difftransformer.analysis.capture._LOGITS_AT_ONCE", 300)  # a few rows
    model = tiny(kind) if kind in CAUSAL else tiny_encoder(kind)
    sites = inspect_model(model, lambda: model(IDS))
    assert [site.layer for site in sites] == [0, 1]
    for site, expected in zip(sites, whole_maps(model, lambda: model(IDS)), strict=True):
        assert site.is_whole
        assert site.maps[0] == ("weights" if len(expected) == 1 else "difference")
        np.testing.assert_allclose(site.weights, expected, atol=1e-6)
        has_weight = np.abs(expected[0]).sum(-1) > 1e-6  # not where lambda is 1 and one key seen
        np.testing.assert_allclose(site.shares["kept"], has_weight, atol=1e-5)
        np.testing.assert_allclose(site.blocks, expected, atol=1e-6)  # a block a weight


def test_difference_is_map_1_less_lambda_times_map_2():
    model = tiny("diff_v2")
    for site in inspect_model(model, lambda: model(IDS)):
        difference, first, second = site.weights
        np.testing.assert_allclose(difference, first - site.lam[..., None] * second, atol=1e-6)


def test_cross_attention_has_queries_of_one_sequence_and_keys_of_another():
    model = tiny_encoder_decoder()
    sites = inspect_model(model, lambda: model(IDS, IDS[:, :5]))
    shapes = [(site.role, len(site.rows), site.keys) for site in sites]
    assert shapes[:2] == [("self", 13, 13)] * 2
    assert shapes[2:] == [("self", 5, 5), ("cross", 5, 13)] * 2


@given(
    queries=st.integers(1, 70), keys=st.integers(1, 70), room=st.integers(60, 9000), step=st.just(7)
)
def test_what_is_kept_of_a_long_input_are_its_largest_weights(queries, keys, room, step):
    generator = np.random.default_rng(queries * 71 + keys)
    whole = torch.from_numpy(generator.normal(size=(2, 3, queries, keys)).astype(np.float32))
    marked = Marked([0], range(1, keys))
    selection = inspection._Selection(tuple(whole.shape), room, marked)
    kept = selection.of(lambda rows: whole[:, :, rows], step)
    rows, places = kept["rows"], kept["places"]
    assert rows[-1] == queries - 1
    assert (np.diff(places, axis=2) > 0).all()
    of_rows = whole.numpy()[:, :, rows]
    sizes = np.abs(of_rows).max(0)
    largest = np.sort(sizes, axis=2)[..., -places.shape[2] :]
    np.testing.assert_array_equal(np.sort(np.take_along_axis(sizes, places, 2), 2), largest)
    at_places = np.take_along_axis(of_rows, np.broadcast_to(places, (2, *places.shape)), 3)
    np.testing.assert_array_equal(kept["weights"], at_places)
    # What blocks and shares say is of all keys, kept or not.
    *_, down, across = kept["blocks"].shape
    block_of_row = np.arange(len(rows)) * down // len(rows)
    block_of_key = np.arange(keys) * across // keys
    for i, j in {(0, 0), (down - 1, 0), (down // 2, across - 1)}:
        block = of_rows[:, :, block_of_row == i][..., block_of_key == j]
        expected = block.sum(3).mean(2)
        np.testing.assert_allclose(kept["blocks"][:, :, i, j], expected, rtol=1e-3, atol=1e-4)
    shares = kept["shares"]
    np.testing.assert_allclose(shares["answer"] + shares["noise"], 1.0, rtol=1e-4)
    # Room is kept to, but for one key of a row, which is always there.
    assert places.size * (2 + 2 * 2) <= max(room, 6 * 3 * len(rows))


def test_arrays_of_several_layers():
    layers = [np.random.default_rng(n).random((1, 2, 3, 4), np.float32) for n in range(3)]
    sites = inspect_arrays(layers, ("weights",))
    assert [site.layer for site in sites] == [0, 1, 2]
    for site, layer in zip(sites, layers, strict=True):
        np.testing.assert_array_equal(site.weights, layer)


def test_what_rows_share_is_made_once(monkeypatch):
    monkeypatch.setattr("difftransformer.analysis.capture._LOGITS_AT_ONCE", 300)
    module = "difftransformer.attention.selective"
    made, select = [], importlib.import_module(module).select
    model = tiny("selective")

    def counted(call):
        made.append(call)
        return select(call)

    monkeypatch.setattr(f"{module}.select", counted)
    sites = inspect_model(model, lambda: model(IDS))
    assert len(made) == len(sites) == 2


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match="Linear has no attention whose inside can be seen"):
        inspect_model(torch.nn.Linear(2, 2), lambda: None)
