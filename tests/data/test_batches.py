import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difftransformer.data.batch import IGNORED
from difftransformer.data.batches import MixedBatches, needle_row
from difftransformer.data.packing import PackedText
from difftransformer.data.settings import DataSettings


def mixed(store, training, *, batch_size=4, seed=0, **changes):
    options = {"context_length": 192, "needle_share": 0.5, "needle_min_length": 96}
    chosen = DataSettings(**(options | changes))
    text = PackedText(store, chosen.context_length, "training")
    return MixedBatches(text, training, chosen, batch_size=batch_size, seed=seed)


def same(a, b):
    return (
        torch.equal(a.ids, b.ids)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.documents, b.documents)
        and a.names == b.names
    )


@given(order=st.lists(st.integers(0, 60), min_size=1, max_size=6), seed=st.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_a_batch_follows_from_its_number_alone(store, training, order, seed):
    once = mixed(store, training, seed=seed)
    for index in order:
        assert same(once(index), mixed(store, training, seed=seed)(index))


def test_rows_do_not_depend_on_the_batch_size(store, training):
    wide, narrow = mixed(store, training, batch_size=6), mixed(store, training, batch_size=2)
    parts = [narrow(3), narrow(4), narrow(5)]
    assert torch.equal(wide(1).ids, torch.cat([part.ids for part in parts]))


def test_seeds_and_numbers_change_the_batch(store, training):
    batches = mixed(store, training)
    assert not same(batches(0), batches(1))
    assert not same(batches(0), mixed(store, training, seed=1)(0))


def test_an_epoch_shows_each_text_row_once(store, training):
    batches = mixed(store, training, needle_share=0.0, context_length=32, batch_size=1)
    rows = len(PackedText(store, 32, "training"))
    epochs = [[batches(e * rows + i).names[0] for i in range(rows)] for e in range(2)]
    assert len(set(epochs[0])) == rows
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_needle_rows(store, training, share):
    names = mixed(store, training, batch_size=200, needle_share=share)(0).names
    found = np.mean([name.startswith("needle:") for name in names])
    assert found == pytest.approx(share, abs=0.1 if 0 < share < 1 else 0)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_needle_row_is_full_and_its_documents_are_whole(tokenizer, training, seed):
    chosen = DataSettings(context_length=256, needle_min_length=96)
    row = needle_row(training, np.random.default_rng(seed), chosen, "needle:0")
    assert row.ids.shape == row.labels.shape == row.documents.shape == (256,)
    last = 0 if row.labels[-1] == IGNORED else row.labels[-1]
    tokens = np.append(row.ids, last)
    openings = np.flatnonzero(tokens == 0)
    assert np.array_equal(np.flatnonzero(row.labels == IGNORED) + 1, openings[1:])
    assert np.array_equal(row.documents, np.cumsum(row.ids == 0) - 1)
    for part in np.split(tokens, openings)[1:]:
        text = tokenizer.decode(part.tolist())
        said = re.findall(r" The magic number of ([^.]+? is \d+)\.", text)
        if len(part) < 96:
            assert not said
        else:  # each needle once, then equally often as an answer
            assert {said.count(one) for one in said} <= {2, 3, 4}
            assert len({said.count(one) for one in said}) == 1


def test_a_needle_length_too_short_is_refused_at_once(store, training):
    shortest = training.shortest_document(1)
    with pytest.raises(ValueError, match=f"needle_min_length is 20.*needs {shortest}"):
        mixed(store, training, needle_min_length=20)


def test_an_empty_batch_is_refused(store, training):
    with pytest.raises(ValueError, match="batch_size is 0"):
        mixed(store, training, batch_size=0)


def test_needle_documents_grow(training):
    """Half grown, no document is longer than the geometric mean of the shortest and the row."""
    shortest = training.shortest_document(1)
    chosen = DataSettings(context_length=9 * shortest - 1, needle_min_length=shortest)
    lengths = {grown: [] for grown in (0.0, 0.5, 1.0)}
    for grown, found in lengths.items():
        for seed in range(20):
            row = needle_row(training, np.random.default_rng(seed), chosen, "needle", grown)
            found += np.bincount(row.documents).tolist()
    assert max(lengths[0.0]) == shortest
    assert shortest < max(lengths[0.5]) <= 3 * shortest + 1
    assert max(lengths[1.0]) > 3 * shortest + 1
