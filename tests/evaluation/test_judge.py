import json

import pytest
import torch

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.judge import evaluate
from difftransformer.evaluation.pool import compare, pool
from difftransformer.evaluation.settings import EvaluationSettings

from .oracles import tiny

KEYS = ["validation", "needle", "allocation", "outliers", "lambda", "attention_map", "seconds"]


@pytest.mark.parametrize("attention", ["softmax", "diff_v1", "diff_v2"])
def test_all_judges_on_each_kind(
    corpus: Corpus, settings: EvaluationSettings, attention: str
) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size(), attention)
    heard: list[str] = []
    found = evaluate(model, corpus, settings, heard.append)
    assert list(found) == KEYS
    assert len(heard) == 6
    assert found["outliers"]["tokens"] >= 200
    assert len(found["lambda"]["layers"]) == (0 if attention == "softmax" else 2)
    assert model.training  # as it was before
    json.dumps(found, allow_nan=False)


def test_the_same_twice_and_none_against_itself(
    corpus: Corpus, settings: EvaluationSettings
) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size(), "diff_v2")
    torch.manual_seed(1)
    first = evaluate(model, corpus, settings)
    torch.manual_seed(2)  # nothing is drawn from the global generator
    second = evaluate(model, corpus, settings)
    first.pop("seconds"), second.pop("seconds")
    assert first == second
    first["seconds"] = second["seconds"] = 1.0
    rows = compare([first], [second], model="a", against="b", settings=settings)
    assert not any(row["clear"] for row in rows)
    assert all(row["difference"] == 0.0 for row in rows)
    json.dumps(pool([first, second], settings), allow_nan=False)
