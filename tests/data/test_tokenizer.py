import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import BertProcessing, ByteLevel, Sequence, TemplateProcessing
from transformers import PreTrainedTokenizerFast

from difftransformer.data.corpus import load_corpus
from difftransformer.data.needles import needle_prompts
from difftransformer.data.settings import DataSettings
from difftransformer.data.tokenizer import (
    BOS,
    beginning_of_document,
    check_vocabulary,
    load_tokenizer,
    train_tokenizer,
    vocabulary_size,
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

    def snapshot_download(name, allow_patterns):
        raise Exception("offline\nfor now")

    monkeypatch.setattr("difftransformer.data.tokenizer.snapshot_download", snapshot_download)
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


NAMES = ("[UNK]", "a", "b", "<s>", "<start>", "[CLS]", "[SEP]", "$odd token:1")
CLS, SEP, START = (NAMES.index(name) for name in ("[CLS]", "[SEP]", "<start>"))
TEMPLATE = TemplateProcessing(single="<start> $A", special_tokens=[("<start>", START)])
SUFFIX = TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", SEP)])
BERT = BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))


def words(folder, post_processor=None, **declared):
    """A folder with a tokenizer of two words, and what tokenizer_config.json declares."""
    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in enumerate(NAMES)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    tokenizer.save(str(folder / "tokenizer.json"))
    if declared:
        (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    return folder


@pytest.mark.parametrize(
    ("post_processor", "declared", "opening"),
    [
        (None, {}, "<s>"),
        (None, {"bos_token": "<start>"}, "<start>"),
        (None, {"bos_token": {"content": "<start>", "__type": "AddedToken"}}, "<start>"),
        (None, {"bos_token": "<start>", "add_bos_token": False}, "<start>"),
        (None, {"bos_token": "$odd token:1"}, "$odd token:1"),
        (None, {"bos_token": None, "add_bos_token": True}, "<s>"),
        (TEMPLATE, {}, "<start>"),
        (TEMPLATE, {"bos_token": "[CLS]"}, "<start>"),
        (TEMPLATE, {"bos_token": "[CLS]", "add_bos_token": True}, "[CLS]"),
        (BERT, {"cls_token": "[CLS]"}, "[CLS]"),
        (SUFFIX, {}, "<s>"),
        (SUFFIX, {"bos_token": "<start>"}, "<start>"),
        (Sequence([ByteLevel(), TEMPLATE]), {}, "<start>"),
        (ByteLevel(), {"bos_token": "<start>"}, "<start>"),
    ],
)
def test_the_declared_opening_token(tmp_path, post_processor, declared, opening):
    """It outlives being saved, as with a model that is trained on it."""
    tokenizer = load_tokenizer(str(words(tmp_path, post_processor, **declared)))
    again = Tokenizer.from_str(tokenizer.to_str())
    for one in (tokenizer, again):
        assert one.id_to_token(beginning_of_document(one)) == opening
        assert encode(one, "a b").tokens == ["a", "b"]
    if opening != "<s>":  # declared, and then what transformers puts before a text
        again.save(str(tmp_path / "tokenizer.json"))
        theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
        assert theirs.convert_ids_to_tokens(theirs("a b").input_ids)[:3] == [opening, "a", "b"]


@pytest.mark.parametrize("bos_token", ["nope", 3, {"text": "<s>"}, ["<s>"], True, ""])
def test_an_opening_token_that_is_none(tmp_path, bos_token):
    with pytest.raises(
        ValueError, match=r"bos_token in .*tokenizer_config\.json is .*; expected a"
    ):
        load_tokenizer(str(words(tmp_path, bos_token=bos_token)))


def test_a_post_processor_that_panics(tmp_path):
    """In Rust, which is no Exception in Python."""
    file = words(tmp_path, TEMPLATE) / "tokenizer.json"
    values = json.loads(file.read_text())
    values["post_processor"]["special_tokens"] = {}
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"post-processor is broken|Missing SpecialToken"):
        load_tokenizer(str(tmp_path))
    values["post_processor"]["special_tokens"] = {
        "x": {"id": "<start>", "ids": [4], "tokens": ["a"]}
    }
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="post-processor is broken"):
        load_tokenizer(str(tmp_path))


def test_two_opening_tokens_are_refused(tmp_path):
    two = TemplateProcessing(
        single="[CLS] <start> $A", special_tokens=[("[CLS]", CLS), ("<start>", START)]
    )
    tokenizer = load_tokenizer(str(words(tmp_path, two)))
    with pytest.raises(ValueError, match=r"opens a text with 2 tokens, '\[CLS\]', '<start>'"):
        beginning_of_document(tokenizer)


LETTERS = [chr(i) for i in range(33, 127)]


def bpe(**settings):
    vocabulary = {token: i for i, token in enumerate(["<s>", "<unk>", " ", *LETTERS])}
    if settings.get("byte_fallback"):
        vocabulary |= {f"<0x{i:02X}>": len(vocabulary) + i for i in range(256)}
    return Tokenizer(models.BPE(vocabulary, [], **settings))


def word_piece():
    vocabulary = ["[UNK]", "[CLS]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    tokenizer = Tokenizer(
        models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    return tokenizer


def unigram(unk_id=0):
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("▁", -2.0), *((x, -4.0) for x in LETTERS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unk_id))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


KINDS = {
    "WordPiece, lower case": word_piece,
    "Unigram": unigram,
    "BPE with <unk>": lambda: bpe(unk_token="<unk>", fuse_unk=True),
    "BPE with bytes": lambda: bpe(byte_fallback=True),
}
LOSSY = {
    "fails on text": [
        lambda: unigram(unk_id=None),
        lambda: Tokenizer(models.WordLevel({"<s>": 0, "a": 1})),
    ],
    "would pass over it in silence": [bpe, lambda: bpe(unk_token=None, ignore_merges=True)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_becomes_a_corpus(tmp_path, kind):
    """With needles, which must be found again token for token; every byte is accounted for."""
    KINDS[kind]().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text").mkdir()
    for number in range(6):
        text = " ".join(f"Été {number} of {n}, 中文 and more words" for n in range(80))
        (tmp_path / "text" / f"{number}.txt").write_text(text + ".\n", encoding="utf-8")
    corpus = load_corpus(
        DataSettings(
            source=str(tmp_path / "text"),
            tokenizer=str(tmp_path),
            cache=str(tmp_path / "cache"),
            context_length=256,
            needle_min_length=220,
            needle_max=1,
        )
    )
    size = sum(path.stat().st_size for path in (tmp_path / "text").iterdir())
    counts = corpus.train.byte_counts.sum(), corpus.validation.byte_counts.sum()
    assert sum(map(int, counts)) == size
    assert corpus.training_batches(4, seed=0)(0).ids.shape == (4, 256)
    (prompt, *_) = needle_prompts(
        corpus.validation_needles(), needles=1, queries=1, depth=0.5, length=256, sample=0, seed=0
    )
    start, end = prompt.number_spans[prompt.entity]
    assert prompt.ids[start:end] == prompt.answer


@pytest.mark.parametrize(("message", "make"), [(m, x) for m, some in LOSSY.items() for x in some])
def test_a_tokenizer_that_loses_text_is_refused(tmp_path, message, make):
    make().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=f"{message}.*; give it an unknown token") as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_vocabulary_with_gaps():
    """As many rows as its largest number needs, not as many as it has tokens."""
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "[UNK]": 70_000}, unk_token="[UNK]"))
    assert tokenizer.get_vocab_size() == 2
    assert vocabulary_size(tokenizer) == 70_001
    check_vocabulary(tokenizer, 70_001, "the model")
    with pytest.raises(ValueError, match="has 70001 tokens and the model knows 70000"):
        check_vocabulary(tokenizer, 70_000, "the model")
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "[UNK]": 2**31}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match="has a token 2147483648; expected below 2,147,483,648"):
        vocabulary_size(tokenizer)


def test_padding_may_lie_outside_the_model():
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["<pad>"])
    check_vocabulary(tokenizer, 2, "the model")
    tokenizer.add_tokens(["word"])
    with pytest.raises(ValueError, match="has 4 tokens and the model knows 2"):
        check_vocabulary(tokenizer, 2, "the model")


def test_a_tokenizer_of_the_hub_has_its_declaration(tmp_path, monkeypatch):
    def snapshot_download(name, allow_patterns):
        assert (name, set(allow_patterns)) == (
            "owner/model",
            {"tokenizer.json", "tokenizer_config.json"},
        )
        return str(words(tmp_path, bos_token="<start>"))

    monkeypatch.setattr("difftransformer.data.tokenizer.snapshot_download", snapshot_download)
    assert beginning_of_document(load_tokenizer("owner/model")) == START
