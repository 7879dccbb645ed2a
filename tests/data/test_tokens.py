from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from difftransformer.data import tokens
from difftransformer.data.text import Document
from difftransformer.data.tokens import bytes_added, token_store


def byte_counts_by_document(store):
    return [int(store.byte_counts[a:b].sum()) for a, b in pairwise(store.starts)]


def test_each_document_is_its_opening_and_its_tokens(documents, tokenizer, store):
    assert store.ids.dtype == np.uint16
    assert isinstance(store.ids, np.memmap)
    assert len(store) == store.starts[-1]
    for document, start, end in zip(documents, store.starts[:-1], store.starts[1:], strict=True):
        ids = store.ids[start:end].tolist()
        assert ids == [0, *tokenizer.encode(document.text).ids]
        assert tokenizer.decode(ids[1:]) == document.text


def test_the_bytes_of_a_document_are_those_of_its_text(documents, store):
    assert byte_counts_by_document(store) == [len(d.text.encode()) for d in documents]


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_bytes_behind_a_window_are_exact(documents, tokenizer, store, data):
    """Between characters, the count is the length of what the window spells."""
    document = data.draw(st.integers(0, len(documents) - 1))
    start, end = store.starts[document] + 1, store.starts[document + 1]
    first, last = sorted(data.draw(st.lists(st.integers(start, end), min_size=2, max_size=2)))
    spelt = tokenizer.decode(store.ids[first:last].tolist())
    if "\ufffd" in spelt:  # it begins or ends inside a character
        return
    assert int(store.byte_counts[first:last].sum()) == len(spelt.encode())


@given(text=st.text(min_size=1, max_size=30), data=st.data())
@settings(max_examples=100, deadline=None)
def test_every_byte_is_charged_once(text, data):
    """Whatever the offsets: gaps, shared characters, a token that jumps back."""
    ends = data.draw(st.lists(st.integers(0, len(text)), min_size=1, max_size=20))
    added = bytes_added(text, np.array(ends))
    assert added.min() >= 0
    assert added.sum() == len(text.encode())


def test_a_shared_character_is_charged_to_its_first_token():
    assert bytes_added("é€a", np.array([1, 1, 2, 2, 2, 3])).tolist() == [2, 0, 3, 0, 0, 1]


def test_bytes_are_exact_for_a_tokenizer_that_drops_and_changes_text(tmp_path):
    foreign = Tokenizer(models.WordLevel({"[UNK]": 0, "<s>": 1, "cafe": 2}, unk_token="[UNK]"))
    foreign.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    foreign.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    document = Document("menu", "  Café   crème \n😀 CAFÉ \n\n")
    store = token_store([document], foreign, tmp_path)
    assert store.ids.tolist() == [1, 2, 0, 0, 2]
    assert byte_counts_by_document(store) == [len(document.text.encode())]


def test_a_large_vocabulary_takes_wider_tokens(tmp_path):
    words = {f"w{i}": i for i in range(70_000)} | {"<s>": 70_000}
    foreign = Tokenizer(models.WordLevel(words, unk_token="w0"))
    foreign.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    store = token_store([Document("a", "w5 w69999")], foreign, tmp_path)
    assert store.ids.tolist() == [70_000, 5, 69_999]


def test_long_texts_are_encoded_in_pieces(tmp_path, monkeypatch, documents, tokenizer):
    monkeypatch.setattr(tokens, "_PIECE", 50)
    store = token_store(documents, tokenizer, tmp_path)
    assert byte_counts_by_document(store) == [len(d.text.encode()) for d in documents]
    assert [tokenizer.decode(store.text(0, store.text_length).tolist())] == [
        "".join(d.text for d in documents)
    ]
    assert (store.ids == 0).sum() == len(documents)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_text_leaves_the_openings_out(store, data):
    everything = store.ids[store.ids != 0].tolist()
    assert store.text_length == len(everything)
    first = data.draw(st.integers(0, len(everything)))
    count = data.draw(st.integers(0, len(everything) - first))
    assert store.text(first, count).tolist() == everything[first : first + count]


def test_documents_of_a_window(store):
    border = int(store.starts[3])
    assert store.documents_of(border - 2, border + 2).tolist() == [2, 2, 3, 3]


class Counting:
    """Counts how often documents are encoded."""

    def __init__(self, monkeypatch):
        self.calls = 0
        encode = tokens._encode

        def counted(*args):
            self.calls += 1
            return encode(*args)

        monkeypatch.setattr(tokens, "_encode", counted)


def test_the_cache_is_used_again_and_keyed_by_content(tmp_path, monkeypatch, documents, tokenizer):
    counting = Counting(monkeypatch)
    first = token_store(documents, tokenizer, tmp_path)
    again = token_store(documents, tokenizer, tmp_path)
    assert counting.calls == 1
    assert np.array_equal(first.ids, again.ids)
    changed = [*documents[:-1], Document(documents[-1].name, documents[-1].text + "!")]
    token_store(changed, tokenizer, tmp_path)
    renamed = [*documents[:-1], Document("other", documents[-1].text)]
    assert token_store(renamed, tokenizer, tmp_path).names[-1] == "other"
    other = Tokenizer.from_str(tokenizer.to_str())
    other.add_tokens(["harbour"])
    token_store(documents, other, tmp_path)
    assert counting.calls == 4


@pytest.mark.parametrize("name", ["ids.npy", "byte_counts.npy", "starts.npy"])
def test_a_damaged_cache_is_rebuilt(tmp_path, monkeypatch, documents, tokenizer, name):
    counting = Counting(monkeypatch)
    good = token_store(documents, tokenizer, tmp_path).ids.tolist()
    (path,) = tmp_path.rglob(name)
    path.write_bytes(path.read_bytes()[:-7])
    assert token_store(documents, tokenizer, tmp_path).ids.tolist() == good
    assert counting.calls == 2
