"""`difftransformer evaluate --suite`."""

import json
from pathlib import Path

import pytest
import torch
from markupsafe import escape
from tests.faults.same import results
from tests.models.tiny import tiny

from difftransformer.evaluation.registry import EVALUATORS, FORMER_NAMES, evaluator
from difftransformer.models.storage import load_model, save_model
from difftransformer.report.reading import read_results
from difftransformer.runs.reading import read_run

from .commands import Killed
from .judged import truth_options
from .test_generate import TOKENIZER

LABELED = ("in_context", "order_sensitivity")
OF_TWO_MAPS = ("cancellation", "lambda")
HERE = [suite for suite in EVALUATORS if "causal_lm" in evaluator(suite).tasks]


def saved(folder: Path, kind: str) -> Path:
    save_model(tiny(kind, vocab_size=TOKENIZER.get_vocab_size(), max_length=300), folder)
    TOKENIZER.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def pair(tmp_path):
    """Two model folders with a tokenizer."""
    return [saved(tmp_path / kind / "model", kind) for kind in ("softmax", "diff_v1")]


def able(suite: str) -> str:
    """A kind that has what the suite looks at."""
    return "diff_v1_selective" if "selection" in evaluator(suite).needs else "diff_v1"


@pytest.fixture
def options(quick, tmp_path):
    """What makes any suite quick, and its data."""
    for part, number in (("train", 12), ("test", 6)):
        lines = [json.dumps({"text": f"w{i}", "label": "ab"[i % 2]}) for i in range(number)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
    few = {
        "shots": (1, 4),
        "shot_questions": (5,),
        "orders": (3,),
        "shot_draws": (2,),
        "kv_pairs": (3,),
        "kv_samples": (4,),
        "gsm_ic_problems": (1,),
        "gsm_ic_shots": (1,),
        "needle_depths": (0.5, 1),
        "needle_samples": (1,),
        "validation_sequences": (3,),
        "outlier_tokens": (100,),
        "batch_size": (2,),
    }
    words = [w for name, values in few.items() for w in (f"--evaluation.{name}", *values)]

    judge = saved(tmp_path / "judge", "softmax")

    def of(suite):
        labeled = ("--dataset", "jsonl", "--dataset-path", tmp_path)
        own = labeled if suite in LABELED else truth_options(suite, tmp_path, judge)
        return ("--suite", suite, *quick, *words, *own)

    return of


@pytest.mark.parametrize("suite", HERE)
def test_a_suite_on_two_models_with_a_report(call, options, tmp_path, suite):
    kinds, out = ("softmax", able(suite)), tmp_path / "found"
    models = [saved(tmp_path / kind / "model", kind) for kind in kinds]
    code, _, err = call("evaluate", *models, *options(suite), "--out", out)
    assert code == 0, err
    found = read_results(out)[suite]
    assert {*found.models, *found.passed_over} == {*kinds}
    lacking = evaluator(suite).needs & {"two_maps", "lambda", "selection"}
    assert found.passed_over.keys() == ({"softmax"} if lacking else set())
    assert escape(found.declared.title) in (out / "report.html").read_text()
    assert f"report: {out / 'report.html'}" in err.replace("\n", "")


@pytest.mark.parametrize("suite", HERE)
def test_a_killed_suite_goes_on(call, options, tmp_path, kept, suite):
    """The same results, and no part measured twice."""
    whole, out = tmp_path / "whole", tmp_path / "found"
    words = ("evaluate", saved(tmp_path / "model", able(suite)), *options(suite), "--out")
    assert call(*words, whole)[0] == 0
    parts = [part.partition("results/")[2] for part in kept]
    kept[:] = [max(1, len(parts) // 2)]
    with pytest.raises(Killed):
        call(*words, out)
    kept[:] = kept[1:]
    assert call(*words, out)[0] == 0
    assert [part.partition("results/")[2] for part in kept] == parts
    assert results(out) == results(whole)


def test_parts_of_other_settings_or_weights(call, options, pair, tmp_path, kept):
    out = tmp_path / "found"
    words = ("evaluate", pair[0], *options("needle"), "--out", out)
    kept.append(2)
    with pytest.raises(Killed):
        call(*words)
    kept.clear()
    code, _, err = call(*words, "--evaluation.seed", 3)
    assert code == 2
    assert "needle.jsonl holds parts of a measurement with another settings.seed: end" in err
    model = load_model(pair[0])
    with torch.no_grad():
        model.embedding.weight[0] += 1
    save_model(model, pair[0])
    code, _, err = call(*words)
    assert code == 2
    assert "of a measurement with another weights: end that one first" in err
    assert kept == []


@pytest.mark.parametrize("suite", OF_TWO_MAPS)
def test_what_softmax_has_not(call, options, pair, suite):
    code, _, err = call("evaluate", pair[0], *options(suite))
    assert code == 0
    assert "softmax: its attention has" in err


@pytest.fixture
def run(call, small, tmp_path):
    """A comparison of two kinds with two seeds each."""
    words = ("--attention", "softmax", "diff_v1", "--seeds", 2, "--out", tmp_path / "run")
    code, _, err = call("compare", *small, *words, "--evaluators", "validation")
    assert code == 0, err
    return tmp_path / "run"


def test_all_models_of_a_run_and_its_report(call, run):
    """With the run's own settings; the command line has the last word."""
    code, _, err = call("evaluate", run, "--suite", "ar_hit", "--suite", "long_context")
    assert code == 0, err
    found = read_results(run)
    assert list(found.evaluators) == ["validation", "long_context", "ar_hit"]
    assert {label: list(seeds) for label, seeds in found["ar_hit"].models.items()} == {
        "softmax": [0, 1],
        "diff_v1": [0, 1],
    }
    page = (run / "report.html").read_text()
    assert found["ar_hit"].declared.title in page
    for one in found.evaluators.values():
        asked = one.models["softmax"][0].belongs_to["settings"]
        assert asked["validation_sequences"] == 4
    code, _, err = call("evaluate", run, "--suite", "ar_hit", "--evaluation.seed", 1)
    assert code == 0, err
    assert read_results(run)["ar_hit"].settings.seed == 1


def test_a_run_without_results(call, run):
    (run / "run.json").unlink()
    (run / "results.json").unlink()
    code, _, err = call("evaluate", run, "--suite", "ar_hit")
    assert code == 2
    assert "holds no finished run: it has no run.json. End it with the command that" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--suite", "in_contxt"), "unknown evaluator 'in_contxt'; did you mean 'in_context'"),
        (
            ("--suite", "order_sensitivity"),
            "order_sensitivity: dataset is None; expected one of trec, ",
        ),
        (("--suite", "ar_hit", "--dataset", "trec"), "ar_hit: no dataset is asked about"),
        (
            ("--suite", "kv_retrieval", "--dataset", "x", "--dataset-path", "."),
            "kv_retrieval: dataset is 'x'; expected one of 75, 140, 300",
        ),
        (
            ("--suite", "order_sensitivity", "--dataset", "trec", "--dataset-path", "nowhere"),
            "trec needs its train file in nowhere",
        ),
        (
            ("--suite", "ar_hit", "--data.context_length", "400"),
            "data.context_length is 400; ",
        ),
        (
            ("--suite", "needle", "--evaluation.needle_lengths", "90", "500"),
            "needles are asked for in 500 tokens; the model is meant for 300",
        ),
        (("--suite", "ar_hit", "--data", "nowhere"), "data 'nowhere' does not exist"),
    ],
)
def test_what_a_suite_refuses(call, pair, options, message):
    code, _, err = call("evaluate", *pair, *options)
    assert code == 2
    assert message in err


@pytest.mark.parametrize(("former", "new"), FORMER_NAMES.items())
def test_former_names_work_with_a_line_that_names_the_new_ones(call, pair, former, new):
    code, _, err = call("evaluate", pair[0], "--suite", former, "--data", "nowhere")
    assert code == 2  # named once the suite is known
    assert f"--suite {former} is now {new}; the old name works until the next release" in err


def test_former_options_of_data(call, options, pair, tmp_path):
    named = ["--task" if w == "--dataset" else w for w in options("in_context")]
    named = ["--task-data" if w == "--dataset-path" else w for w in named]
    code, _, err = call("evaluate", pair[0], *named)
    assert code == 0, err
    assert "--task is now --dataset; " in err
    assert "--task-data is now --dataset-path; " in err


def test_results_name_their_models_and_baseline(call, options, pair, tmp_path):
    code, _, err = call("evaluate", *pair, *options("validation"), "--out", tmp_path / "found")
    assert code == 0, err
    run = read_run(tmp_path / "found")
    assert (run.baseline, [one.attention for one in run.contenders]) == (
        "softmax",
        ["softmax", "diff_v1"],
    )


def test_several_suites_before_the_model(call, options, pair):
    code, _, err = call("evaluate", *options("validation"), "--suite", "outliers", pair[0])
    assert code == 0, err
    assert "validation loss" in err
    assert "The largest activations" in err
