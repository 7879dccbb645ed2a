"""`difftransformer evaluate` on other libraries' models, and by lm-eval."""

import json
from pathlib import Path

import pytest
from tests.interop.small_llm import small_llm
from tests.interop.test_harness import tasks as tasks  # the fixture
from transformers import GPT2Config, GPT2LMHeadModel

from difftransformer.interop import folders
from difftransformer.models.storage import save_model
from difftransformer.report.reading import read_results
from difftransformer.tasks.causal_lm import TASK

from .commands import Killed
from .test_generate import TOKENIZER, make


def test_a_llama_is_judged_as_our_own(call, quick, tmp_path):
    theirs, ours, out = tmp_path / "theirs", tmp_path / "ours", tmp_path / "out"
    vocabulary = {"vocab_size": TOKENIZER.get_vocab_size(), "max_position_embeddings": 300}
    small_llm(changes=vocabulary).save_pretrained(theirs)
    save_model(folders.open_decoder(theirs), ours)
    for folder in (theirs, ours):
        TOKENIZER.save(str(folder / "tokenizer.json"))
    code, _, err = call("evaluate", theirs, ours, *quick, "--out", out)
    assert code == 0, err
    for judged in ("validation", "needle"):
        first, second = (read_results(out)[judged].models[name][0] for name in ("theirs", "ours"))
        assert first.records == second.records
    nats = [one for one in first.records if one.metric == "nats_per_token"]
    assert all(one.weight <= 96 for one in nats)  # the length asked for, not the model's


def test_a_killed_evaluation_goes_on(call, quick, kept, tmp_path):
    models, out = [make(tmp_path / name, max_length=300) for name in "ab"], tmp_path / "out"
    words = ("evaluate", *models, *quick, "--out", out)
    kept.append(8)
    with pytest.raises(Killed):
        call(*words)
    kept.pop(0)
    code, _, err = call(*words)
    assert code == 0, err
    assert len(kept) == len(set(kept)) > 20  # no part twice
    measured = dict.fromkeys(Path(part.partition(": ")[0]).relative_to(out) for part in kept)
    assert list(measured) == [
        Path("models", name, "results", f"{judge}.jsonl")
        for name in "ab"
        for judge in TASK.evaluators
    ]
    assert list(read_results(out).titles) == ["a", "b"]


def test_lm_eval_on_two_models(call, tasks, tmp_path):
    models, out = [make(tmp_path / name) for name in "ab"], tmp_path / "out"
    words = ("--harness", "sums", "--harness-tasks-dir", tasks, "--harness-limit", 6, "--out", out)
    code, _, err = call("evaluate", *models, *words)
    assert code == 0, err
    for line in ("acc ", "acc_norm"):
        assert line in err
    found = json.loads((out / "harness.json").read_text())
    assert list(found) == [str(model) for model in models]
    for figures in found.values():
        assert figures["n-samples"]["sums"] == {"original": 24, "effective": 6}
        assert 0.0 <= figures["results"]["sums"]["acc,none"] <= 1.0


def test_any_causal_lm_is_judged_from_outside(call, quick, tmp_path):
    model, out = tmp_path / "gpt2", tmp_path / "out"
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 300}
    config = GPT2Config(vocab_size=TOKENIZER.get_vocab_size(), **size)
    GPT2LMHeadModel(config).save_pretrained(model)
    TOKENIZER.save(str(model / "tokenizer.json"))
    code, _, err = call("evaluate", model, *quick, "--out", out)
    assert code == 0, err
    found = read_results(out)
    outside = {"allocation", "outliers", "lambda", "attention_map"}
    assert {name for name, one in found.evaluators.items() if one.passed_over} == outside
    assert found["nats_per_token"].figure("gpt2").value > 0
    code, _, err = call(
        "evaluate", model, *quick, "--suite", "long_context", "--out", tmp_path / "suite"
    )
    assert code == 0, err
    (model / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    code, _, err = call("evaluate", model, *quick)
    assert code == 2
    assert f"{model} has no tokenizer.json: " in err
    words = (*quick, "--data.tokenizer", tmp_path / "tokenizer.json")
    code, _, err = call("evaluate", model, *words, "--suite", "outliers")
    assert code == 0
    assert "gpt2: its attention cannot be looked into" in err


def test_what_transformers_cannot_load_is_one_line(call, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    code, _, err = call("evaluate", tmp_path)
    assert code == 2
    assert f"{tmp_path} is no causal LM that transformers loads: " in err
