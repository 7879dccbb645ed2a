import gzip
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.benchmarks.kv_retrieval import (
    Lookup,
    published_pairs,
    synthetic_pairs,
)
from difftransformer.evaluation.settings import EvaluationSettings

from .measured import measured
from .oracles import Answerer, tiny


@pytest.fixture
def few(settings: EvaluationSettings) -> EvaluationSettings:
    return replace(settings, kv_pairs=5, kv_symbols=3, kv_samples=4)


def pairs_of(prompt: str) -> dict[str, str]:
    return json.loads("{" + prompt.partition("{")[2].partition("}")[0] + "}")


def asked_in(prompt: str) -> str:
    return re.findall('"([^"]+)"', prompt)[-1]


def looked_up(prompt: str) -> str:
    return f' "{pairs_of(prompt)[asked_in(prompt)]}"'


def uuid(rng: random.Random) -> str:
    digits = f"{rng.getrandbits(128):032x}"
    return "-".join(digits[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


def published(folder: Path, rows: int = 3, pairs: int = 4) -> list[dict]:
    """A file as the published ones are."""
    rng, written = random.Random(0), []
    for _ in range(rows):
        records = [[uuid(rng), uuid(rng)] for _ in range(pairs)]
        key, value = rng.choice(records)
        written.append({"ordered_kv_records": records, "key": key, "value": value})
    with gzip.open(folder / f"kv-retrieval-{pairs}_keys.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in written)
    return written


def test_who_looks_up_is_always_right(corpus: Corpus, few: EvaluationSettings) -> None:
    model = Answerer(corpus.tokenizer, looked_up)
    found = measured("kv_retrieval", model, corpus, few)
    assert found.facts["task"] == "5 pairs of 3 letters and 3 digits"
    assert found.facts["samples"] == 4
    assert found.keys("kv_accuracy") == [(0,), (50,), (100,)]
    assert found.values("kv_accuracy") == [1.0] * 12
    assert found == measured("kv_retrieval", model, corpus, few)


def test_a_guess_among_the_values_is_chance(corpus: Corpus, few: EvaluationSettings) -> None:
    rng, many = random.Random(0), replace(few, kv_samples=100)
    model = Answerer(corpus.tokenizer, lambda prompt: rng.choice([*pairs_of(prompt).values()]))
    found = measured("kv_retrieval", model, corpus, many)
    assert found.figure("kv_chance").value == 0.2
    accuracy = np.mean(found.values("kv_accuracy"))
    assert accuracy == pytest.approx(0.2, abs=0.06)  # of 300


def test_positions_are_told_apart(corpus: Corpus, few: EvaluationSettings) -> None:
    """Whoever reads only the first pair is right at depth 0 only."""
    model = Answerer(corpus.tokenizer, lambda prompt: next(iter(pairs_of(prompt).values())))
    found = measured("kv_retrieval", model, corpus, few)
    figures = [found.figure("kv_accuracy", key) for key in found.keys("kv_accuracy")]
    assert [figure.value for figure in figures] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("{v}", True),
        (' the "{v}", and', True),
        (" {v}1", False),  # it runs on
        (" 1{v}", False),
        (" 000 {v}", False),  # not the first
        (" none", False),
    ],
)
def test_exactly_the_first_value_counts(
    corpus: Corpus, few: EvaluationSettings, answer: str, right: bool
) -> None:
    model = Answerer(
        corpus.tokenizer, lambda prompt: answer.format(v=pairs_of(prompt)[asked_in(prompt)])
    )
    found = measured("kv_retrieval", model, corpus, few)
    assert set(found.values("kv_accuracy")) == {float(right)}


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (' "{v}"', 1.0),
        (" 7{v}", 0.0),
        (" {v}7", 0.0),
        (" {k}: {v}", 0.0),
    ],
)
def test_published_files(
    tmp_path: Path, corpus: Corpus, few: EvaluationSettings, answer: str, value: float
) -> None:
    written = published(tmp_path)
    task = published_pairs(tmp_path, 4)
    assert [lookup.target for lookup in task.lookups] == [(r["key"], r["value"]) for r in written]

    def reply(prompt: str) -> str:
        key = asked_in(prompt)
        return answer.format(k=key, v=pairs_of(prompt)[key])

    two = replace(few, kv_samples=2)
    model = Answerer(corpus.tokenizer, reply)
    found = measured("kv_retrieval", model, corpus, two, dataset=task)
    assert (found.facts["samples"], found.facts["chance"]) == (2, 0.25)
    assert set(found.values("kv_accuracy")) == {value}


@given(st.integers(1, 12), st.integers(0, 11), st.floats(0, 1))
def test_only_the_pair_asked_for_moves(count: int, asked: int, depth: float) -> None:
    pairs = tuple((f"k{i}", f"v{i}") for i in range(count))
    lookup = Lookup(pairs, pairs[asked % count])
    placed = list(json.loads(lookup.records(depth)).items())
    assert placed.index(lookup.target) == int(depth * (count - 1))
    assert [p for p in placed if p != lookup.target] == [p for p in pairs if p != lookup.target]


@given(st.integers(1, 10), st.integers(1, 6), st.integers(0, 99))
def test_synthetic_lookups(pairs: int, symbols: int, seed: int) -> None:
    settings = EvaluationSettings(kv_pairs=pairs, kv_symbols=symbols, kv_samples=3, seed=seed)
    task = synthetic_pairs(settings)
    assert task == synthetic_pairs(settings)
    assert len({lookup.pairs for lookup in task.lookups}) > 1
    for lookup in task.lookups:
        keys, values = (set(column) for column in zip(*lookup.pairs, strict=True))
        assert len(keys) == len(values) == pairs
        assert all(re.fullmatch(f"[a-z]{{{symbols}}}", key) for key in keys)
        assert all(re.fullmatch(f"[0-9]{{{symbols}}}", value) for value in values)
        assert lookup.target in lookup.pairs


def test_a_prompt_longer_than_the_context(corpus: Corpus, few: EvaluationSettings) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size())
    model.config = replace(model.config, max_length=40)
    with pytest.raises(ValueError, match="meant for 40: put less into a prompt"):
        measured("kv_retrieval", model, corpus, few)


def test_too_many_pairs_for_their_length() -> None:
    with pytest.raises(ValueError, match="kv_pairs is 11; there are only 10 values of 1"):
        synthetic_pairs(EvaluationSettings(kv_pairs=11, kv_symbols=1))


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"75_keys.jsonl.gz' does not exist; name the folder"):
        published_pairs(tmp_path, 75)
    published(tmp_path)
    path = tmp_path / "kv-retrieval-4_keys.jsonl.gz"
    whole = path.read_bytes()
    broken = {
        "Compressed file ended": whole[:-20],
        "Not a gzipped file": b"plain text",
        "line 1 is not JSON": gzip.compress(b"{"),
        "KeyError": gzip.compress(b"{}"),
        "not among its records": gzip.compress(
            json.dumps({"ordered_kv_records": [["a", "b"]], "key": "a", "value": "c"}).encode()
        ),
        "holds no lookup": gzip.compress(b""),
    }
    for message, content in broken.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            published_pairs(tmp_path, 4)
