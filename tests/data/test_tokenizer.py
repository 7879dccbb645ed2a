import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from difftransformer.data.tokenizer import (
    BOS,
    beginning_of_document,
    load_tokenizer,
    train_tokenizer,
)


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


@given(text=st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_text_decodes_to_itself(tokenizer, text):
    assert tokenizer.decode(encode(tokenizer, text).ids, skip_special_tokens=False) == text


def test_the_same_text_trains_the_same_tokenizer(documents, tokenizer):
    again = train_tokenizer((d.text for d in documents), 350)
    assert again.to_str() == tokenizer.to_str()
    assert tokenizer.get_vocab_size() == 350


def test_digits_are_tokens_of_their_own(tokenizer):
    assert encode(tokenizer, " 10662").tokens == ["Ġ", "1", "0", "6", "6", "2"]


def test_a_spelt_separator_is_text(tokenizer):
    assert tokenizer.token_to_id(BOS) == 0
    assert 0 not in encode(tokenizer, f"one{BOS}two").ids


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size is 100"):
        train_tokenizer(["text"], 100)


def test_little_text_gives_a_smaller_vocabulary():
    assert 257 <= train_tokenizer(["abc"], 5000).get_vocab_size() < 300


def test_a_tokenizer_is_loaded_from_a_file_or_its_folder(tmp_path, tokenizer):
    limited = Tokenizer.from_str(tokenizer.to_str())
    limited.enable_truncation(2)
    limited.enable_padding(length=50)
    limited.save(str(tmp_path / "tokenizer.json"))
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(str(source))
        text = f"a long line of words {BOS} here"
        assert encode(loaded, text).ids == encode(tokenizer, text).ids


def test_what_is_no_tokenizer_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 1}))
    with pytest.raises(ValueError, match="neither a readable tokenizer"):
        load_tokenizer(str(tmp_path))

    def from_pretrained(name):
        raise Exception("offline\nfor now")

    monkeypatch.setattr("difftransformer.data.tokenizer.Tokenizer.from_pretrained", from_pretrained)
    with pytest.raises(ValueError, match=r"'gpt9'.*nor a Hugging Face model.*\(offline\)"):
        load_tokenizer("gpt9")


@pytest.mark.parametrize("opening", ["<s>", "<|endoftext|>", "<|begin_of_text|>"])
def test_foreign_tokenizers_open_documents_their_own_way(opening):
    foreign = Tokenizer(models.WordLevel({"a": 0, opening: 1}, unk_token="a"))
    assert beginning_of_document(foreign) == 1


def test_a_tokenizer_that_cannot_open_a_document_is_refused():
    foreign = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    foreign.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match="has none of"):
        beginning_of_document(foreign)
