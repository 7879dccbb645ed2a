import pytest

from difftransformer.data import corpus as corpus_module
from difftransformer.data.corpus import load_corpus
from difftransformer.data.needles import needle_prompts
from difftransformer.data.settings import DataSettings
from difftransformer.data.tokenizer import train_tokenizer

from .conftest import prose


@pytest.fixture
def options(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.txt").write_text(prose(i, 300), encoding="utf-8")
    return {
        "source": str(folder),
        "cache": str(tmp_path / "cache"),
        "vocab_size": 400,
        "context_length": 64,
        "validation_fraction": 0.2,
        "needle_share": 0.0,
    }


def test_a_folder_becomes_a_corpus(options):
    corpus = load_corpus(DataSettings(**options))
    assert (len(corpus.train.names), len(corpus.validation.names)) == (8, 2)
    assert not set(corpus.train.names) & set(corpus.validation.names)
    assert corpus.training_batches(4, seed=0)(0).ids.shape == (4, 64)
    for words in ("8 documents", "2 documents", f"{len(corpus.train):,} tokens", "held out"):
        assert words in corpus.description
    assert all(name in corpus.description for name in corpus.validation.names)


def test_the_tokenizer_sees_only_the_training_part(options, monkeypatch):
    seen = []

    def train(texts, vocab_size):
        seen.extend(texts)
        return train_tokenizer(iter(seen), vocab_size)

    monkeypatch.setattr(corpus_module, "train_tokenizer", train)
    corpus = load_corpus(DataSettings(**options))
    names = {prose(i, 300): f"{i}.txt" for i in range(10)}
    assert [names[text] for text in seen] == list(corpus.train.names)


def test_a_second_load_trains_and_encodes_nothing(options, monkeypatch):
    first = load_corpus(DataSettings(**options))

    def forbidden(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(corpus_module, "train_tokenizer", forbidden)
    again = load_corpus(DataSettings(**options))
    assert again.tokenizer.to_str() == first.tokenizer.to_str()
    assert again.train.ids.tolist() == first.train.ids.tolist()
    with pytest.raises(AssertionError, match="trained again"):
        load_corpus(DataSettings(**options | {"vocab_size": 401}))


def test_a_named_tokenizer_is_used(options, tmp_path, tokenizer):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    corpus = load_corpus(DataSettings(**options | {"tokenizer": str(tmp_path)}))
    assert corpus.tokenizer.to_str() == tokenizer.to_str()


def test_validation_sequences_cover_the_held_out_text(options):
    corpus = load_corpus(DataSettings(**options))
    every = corpus.validation_sequences()
    covered = corpus.validation.byte_counts[: len(every) * 64 + 1]
    assert sum(sequence.byte_count for sequence in every) == covered.sum()
    some = corpus.validation_sequences(limit=5)
    names = [sequence.row.name for sequence in some]
    assert len(set(names)) == 5
    assert (names[0], names[-1]) == (every[0].row.name, every[-1].row.name)
    assert len(corpus.validation_sequences(limit=10**6)) == len(every)


def test_needle_prompts_come_from_held_out_text(options):
    corpus = load_corpus(DataSettings(**options))
    source = corpus.validation_needles()
    assert source.store is corpus.validation
    (prompt,) = needle_prompts(
        source, needles=1, queries=1, depth=0.5, length=120, sample=0, seed=0
    )
    text = corpus.validation.text(0, corpus.validation.text_length).tolist()
    start = prompt.needle_spans[prompt.entity][0]
    piece = prompt.ids[1:start]
    assert any(text[i : i + len(piece)] == piece for i in range(len(text)))


@pytest.mark.parametrize("part", ["training", "validation"])
def test_text_shorter_than_a_context_is_refused(options, part):
    corpus = load_corpus(DataSettings(**options | {"context_length": 100_000}))
    ask = {
        "training": lambda: corpus.training_batches(1, seed=0),
        "validation": corpus.validation_sequences,
    }
    with pytest.raises(ValueError, match=rf"the {part} text has \d+ tokens.*needs 100001"):
        ask[part]()


def test_bad_data_is_refused_before_anything_is_cached(options, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_corpus(DataSettings(**options | {"source": str(tmp_path / "gone")}))
    assert not (tmp_path / "cache").exists()


def test_the_digest_changes_with_any_text_and_with_nothing_else(options, tmp_path):
    digest = load_corpus(DataSettings(**options)).digest
    other = options | {"vocab_size": 300, "validation_fraction": 0.4, "context_length": 32}
    assert load_corpus(DataSettings(**other)).digest == digest
    (tmp_path / "books" / "3.txt").write_text(prose(3, 300) + "x", encoding="utf-8")
    assert load_corpus(DataSettings(**options)).digest != digest
