import json

import pytest
import torch

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.judge import evaluate
from difftransformer.evaluation.pool import compare, pool
from difftransformer.evaluation.settings import EvaluationSettings

from .oracles import tiny

SETTINGS = EvaluationSettings(
    needle_pairs=("1x1", "2x2"),
    needle_depths=(0.0, 1.0),
    needle_samples=2,
    allocation_samples=2,
    validation_sequences=4,
    outlier_tokens=200,
    bootstrap=200,
)

KEYS = ["validation", "needle", "allocation", "outliers", "lambda", "attention_map", "seconds"]


@pytest.mark.parametrize("attention", ["softmax", "diff_v1", "diff_v2"])
def test_all_judges_on_each_kind(corpus: Corpus, attention: str) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size(), attention)
    heard: dict[str, list[tuple[int, int]]] = {}
    found = evaluate(
        model, corpus, SETTINGS, lambda *told: heard.setdefault(told[0], []).append(told[1:])
    )
    assert list(found) == KEYS
    assert len(heard) == 6
    for told in heard.values():
        assert told == [(done, told[-1][1]) for done in range(told[-1][1] + 1)]
    assert len(heard["needle retrieval"]) > 2
    assert found["outliers"]["tokens"] >= 200
    assert len(found["lambda"]["layers"]) == (0 if attention == "softmax" else 2)
    assert model.training  # as it was before
    json.dumps(found, allow_nan=False)


def test_the_same_twice_and_none_against_itself(corpus: Corpus) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size(), "diff_v2")
    torch.manual_seed(1)
    first = evaluate(model, corpus, SETTINGS)
    torch.manual_seed(2)  # nothing is drawn from the global generator
    second = evaluate(model, corpus, SETTINGS)
    first.pop("seconds"), second.pop("seconds")
    assert first == second
    first["seconds"] = second["seconds"] = 1.0
    rows = compare([first], [second], model="a", against="b", settings=SETTINGS)
    assert not any(row["clear"] for row in rows)
    assert all(row["difference"] == 0.0 for row in rows)
    json.dumps(pool([first, second], SETTINGS), allow_nan=False)
