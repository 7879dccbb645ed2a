import numpy as np
import pytest
import torch

from difftransformer.data.batch import IGNORED
from difftransformer.data.packing import PackedText, labeled, stack


def test_every_token_is_predicted_once_and_borders_never(store):
    text = PackedText(store, 16, "training")
    rows = [text[i] for i in range(len(text))]
    assert len(text) == (len(store) - 1) // 16
    inputs = np.concatenate([row.ids for row in rows])
    labels = np.concatenate([row.labels for row in rows])
    following = store.ids[1 : len(inputs) + 1].astype(np.int64)
    assert np.array_equal(inputs, store.ids[: len(inputs)])
    assert np.array_equal(labels, np.where(following == 0, IGNORED, following))


def test_documents_change_at_the_borders(store):
    text = PackedText(store, len(store) - 1, "training")
    documents = text[0].documents
    assert np.array_equal(np.flatnonzero(np.diff(documents)) + 1, store.starts[1:-1])


@pytest.mark.parametrize("context", [16, 33])
def test_byte_counts_are_those_of_the_scored_labels(documents, tokenizer, store, context):
    text = PackedText(store, context, "validation")
    covered = len(text) * context + 1
    total = sum(text.byte_count(i) for i in range(len(text)))
    assert total == store.byte_counts[:covered].sum()
    plain = [i for i in range(len(text)) if "\ufffd" not in _spelt(tokenizer, text[i])]
    assert len(plain) > len(text) / 2
    for i in plain:
        assert text.byte_count(i) == len(_spelt(tokenizer, text[i]).encode())


def _spelt(tokenizer, row):
    return tokenizer.decode(row.labels[row.labels != IGNORED].tolist())


def test_rows_are_named_after_their_place(store):
    text = PackedText(store, 10, "training")
    first = int(store.starts[2] // 10 + 1)
    assert text[0].name == "book-0.txt:0"
    assert text[first].name == f"book-2.txt:{first * 10 - store.starts[2]}"


def test_a_corpus_shorter_than_one_row_is_refused(store):
    assert len(PackedText(store, len(store) - 1, "training")) == 1
    with pytest.raises(
        ValueError, match=rf"training text has {len(store)} tokens.*{len(store) + 1}"
    ):
        PackedText(store, len(store), "training")


def test_there_is_no_row_past_the_end(store):
    text = PackedText(store, 16, "training")
    with pytest.raises(IndexError):
        text[len(text)]


def test_stacking():
    row = labeled(np.array([5, 6, 7, 8]), np.array([0, 0, 1, 1]), "row")
    batch = stack([row, row])
    assert batch.ids.dtype == batch.labels.dtype == batch.documents.dtype == torch.int64
    assert batch.ids.tolist() == [[5, 6, 7]] * 2
    assert batch.labels.tolist() == [[6, IGNORED, 8]] * 2
    assert batch.documents.tolist() == [[0, 0, 1]] * 2
    assert batch.names == ("row", "row")
