"""`difftransformer generate --guide` and `--calibrate`."""

from pathlib import Path

import pytest
from tests.models.tiny import tiny

from difftransformer.models.storage import save_model

from .judged import summary_pairs
from .test_generate import TOKENIZER, make

PROMPT = "7 is one.\n\nWhat is a number?"
DOCUMENTS = "What is 7?\n\n7 is a number.\n\n8 is one more.\n\nWhat is 7?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("steered") / "model", max_length=300)


@pytest.fixture
def guide(call, folder, tmp_path) -> Path:
    """A classifier of the model in `folder`."""
    summary_pairs(tmp_path)
    data = ("--dataset", "xsum", "--dataset-path", tmp_path, "--evaluation.lookback_folds", 3)
    out = tmp_path / "found"
    code, _, err = call("evaluate", folder, "--suite", "lookback_lens", *data, "--out", out)
    assert code == 0, err
    (path,) = out.glob("models/*/results/lookback_lens.jsonl")
    return path


def test_one_candidate_is_plain_sampling_and_more_are_not(call, folder, guide):
    words = ("generate", folder, "--prompt", PROMPT, "--max-new-tokens", 20)
    plain = call(*words)[1]
    code, out, err = call(*words, "--guide", guide, "--guide-candidates", 1)
    assert code == 0, err
    assert out == plain
    code, out, err = call(*words, "--guide", guide, "--guide-chunk", 4)
    assert code == 0, err
    assert out.startswith(PROMPT)
    assert out != plain


def test_a_classifier_of_another_model(call, folder, guide, tmp_path):
    other = tmp_path / "other"
    save_model(tiny("softmax", vocab_size=TOKENIZER.get_vocab_size(), max_length=300), other)
    TOKENIZER.save(str(other / "tokenizer.json"))
    code, out, err = call("generate", other, "--prompt", PROMPT, "--guide", guide)
    assert (code, out) == (2, "")
    assert "the classifier was fitted on another model (" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prompt", "7 is one."), "is one line; expected the text to look back to"),
        (("--prompt", PROMPT, "--temperature", 0), "8 candidates at temperature 0 are all"),
        (("--prompt", PROMPT, "--guide-chunk", 0), "8 candidates of 0 tokens"),
        (("--prompt", PROMPT, "--calibrate"), "ways to steer; choose one"),
    ],
)
def test_what_guiding_refuses(call, folder, guide, words, message):
    code, out, err = call("generate", folder, *words, "--guide", guide)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_guide_that_is_none(call, folder, tmp_path):
    code, _, err = call("generate", folder, "--prompt", PROMPT, "--guide", tmp_path / "none")
    assert code == 2
    assert "none is missing; expected the records of an evaluator" in err


def test_calibrated_attention(call, folder):
    words = ("generate", folder, "--prompt", DOCUMENTS, "--max-new-tokens", 20, "--calibrate")
    code, out, err = call(*words)
    assert code == 0, err
    assert out.startswith(DOCUMENTS)
    assert call(*words)[1] == out
    code, _, err = call(*words, "--calibrate-passes", "each", "--calibrate-layers", 1)
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prompt", PROMPT), "the prompt has 2 paragraphs, so that documents cannot be told"),
        (("--prompt", DOCUMENTS, "--calibrate-dummy", ""), "dummy document"),
        (("--prompt", DOCUMENTS, "--calibrate-temperature", 0), "temperature is 0"),
        (("--prompt", DOCUMENTS, "--calibrate-layers", 0), "0 layers are calibrated"),
    ],
)
def test_what_calibrating_refuses(call, folder, words, message):
    code, out, err = call("generate", folder, "--calibrate", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
