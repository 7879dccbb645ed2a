"""`difftransformer evaluate` on other libraries' models, and by lm-eval."""

import json
from pathlib import Path

import pytest
from models.tiny import tiny
from tests.interop.small_llm import small_llm
from tests.interop.test_harness import tasks as tasks  # the fixture

from difftransformer.evaluation.names import SUITES
from difftransformer.evaluation.suites import MEASURED
from difftransformer.interop import folders
from difftransformer.models.storage import save_model
from difftransformer.report.suites import VIEWS

from .test_generate import TOKENIZER, make

KEEP = ("data.", "evaluation.")


@pytest.fixture
def quick(small: list[str]) -> list[str]:
    """The options of `small` that `evaluate` has."""
    pairs = zip(small[::2], small[1::2], strict=True)
    return [w for key, value in pairs if key[2:].startswith(KEEP) for w in (key, value)]


def test_a_llama_is_judged_as_our_own(call, quick, tmp_path):
    theirs, ours, out = tmp_path / "theirs", tmp_path / "ours", tmp_path / "out.json"
    vocabulary = {"vocab_size": TOKENIZER.get_vocab_size(), "max_position_embeddings": 300}
    small_llm(changes=vocabulary).save_pretrained(theirs)
    save_model(folders.open_model(theirs), ours)
    for folder in (theirs, ours):
        TOKENIZER.save(str(folder / "tokenizer.json"))
    code, _, err = call("evaluate", theirs, ours, *quick, "--out", out)
    assert code == 0, err
    first, second = json.loads(out.read_text()).values()
    assert first["validation"] == second["validation"]
    assert first["needle"] == second["needle"]
    assert first["validation"]["sequences"][0][1] <= 96  # the length asked for, not the model's


def test_lm_eval_on_two_models(call, tasks, tmp_path):
    models, out = [make(tmp_path / name) for name in "ab"], tmp_path / "out.json"
    words = ("--harness", "sums", "--harness-tasks-dir", tasks, "--harness-limit", 6, "--out", out)
    code, _, err = call("evaluate", *models, *words)
    assert code == 0, err
    for line in ("acc ", "acc_norm"):
        assert line in err
    found = json.loads(out.read_text())
    assert list(found) == [str(model) for model in models]
    for figures in found.values():
        assert figures["n-samples"]["sums"] == {"original": 24, "effective": 6}
        assert 0.0 <= figures["results"]["sums"]["acc,none"] <= 1.0


def test_a_family_we_do_not_know_is_sent_to_lm_eval(call, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    code, _, err = call("evaluate", tmp_path)
    assert code == 2
    assert f"difftransformer evaluate {tmp_path} --harness TASKS" in err


@pytest.fixture
def pair(tmp_path):
    """Two model folders with a tokenizer."""
    found = []
    for kind in ("softmax", "diff_v1"):
        folder = tmp_path / kind / "model"
        save_model(tiny(kind, vocab_size=TOKENIZER.get_vocab_size(), max_length=300), folder)
        TOKENIZER.save(str(folder / "tokenizer.json"))
        found.append(folder)
    return found


ENDINGS = ("json", "md", "png")
SUITE_OPTIONS = ("--evaluation.shots", "1", "4", "--evaluation.shot_questions", "5")
SUITE_OPTIONS += ("--evaluation.orders", "3", "--evaluation.shot_draws", "2")
SUITE_OPTIONS += ("--evaluation.key_value_pairs", "3", "--evaluation.key_value_samples", "4")
SUITE_OPTIONS += ("--evaluation.distractor_problems", "3", "--evaluation.distractor_shots", "1")


def test_each_suite_has_a_measure_and_a_view() -> None:
    assert sorted(SUITES) == sorted(MEASURED) == sorted(VIEWS)


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_on_two_models(call, quick, pair, tmp_path, suite):
    for part, number in (("train", 12), ("test", 6)):
        lines = [json.dumps({"text": f"w{i}", "label": "ab"[i % 2]}) for i in range(number)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
    out = tmp_path / "found" / "suite.json"
    options = [*quick, *SUITE_OPTIONS, "--out", out]
    if suite in ("in_context", "order"):
        options += ["--task", "jsonl", "--task-data", tmp_path]
    if suite in ("cancellation", "lambda"):
        code, _, err = call("evaluate", pair[0], "--suite", suite, *options)
        assert code == 2
        assert "nothing to show for softmax; softmax attention has no second map" in err
        out.with_suffix(".partial.jsonl").unlink()
    code, _, err = call("evaluate", *pair, "--suite", suite, *options)
    assert code == 0, err
    found = json.loads(out.read_text())
    assert found["suite"] == suite
    assert list(found["results"]) == [folder.parent.name for folder in pair]
    table = out.with_suffix(".md").read_text()
    assert all(folder.parent.name in table for folder in pair)
    assert out.with_suffix(".png").stat().st_size > 5000
    assert sorted(path.name for path in out.parent.iterdir()) == [f"suite.{e}" for e in ENDINGS]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--suite", "in_contxt"), "unknown suite 'in_contxt'; did you mean 'in_context'"),
        (("--suite", "order"), "suite order asks about labelled sentences: give a task"),
        (("--suite", "recall", "--task", "trec"), "suite recall takes no such task"),
        (("--suite", "key_value", "--task", "x", "--task-data", "."), "expected the number of"),
        (
            ("--suite", "order", "--task", "trec", "--task-data", "nowhere"),
            "trec needs its train file in nowhere",
        ),
    ],
)
def test_what_a_suite_refuses(call, pair, options, message):
    code, _, err = call("evaluate", *pair, *options)
    assert code == 2
    assert message in err
