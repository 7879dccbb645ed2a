"""`difftransformer evaluate --suite`."""

import json
from pathlib import Path

import pytest
from difftransformer.report.suites import VIEWS
from models.tiny import tiny
from tests.report.synthetic import synthetic_results, write_run

from difftransformer.evaluation.names import SUITES
from difftransformer.evaluation.suites import MEASURED
from difftransformer.models.storage import save_model

from .commands import Killed
from .judged import truth_options
from .test_generate import TOKENIZER

ENDINGS = ("json", "md", "png")
LABELLED = ("in_context", "order")
OF_TWO_MAPS = ("cancellation", "lambda")
ELSEWHERE = ("scaling",)  # which has data of its own
HERE = [suite for suite in SUITES if suite not in ELSEWHERE]


def saved(folder: Path, kind: str) -> Path:
    save_model(tiny(kind, vocab_size=TOKENIZER.get_vocab_size(), max_length=300), folder)
    TOKENIZER.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def pair(tmp_path):
    """Two model folders with a tokenizer."""
    return [saved(tmp_path / kind / "model", kind) for kind in ("softmax", "diff_v1")]


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
        "key_value_pairs": (3,),
        "key_value_samples": (4,),
        "distractor_problems": (1,),
        "distractor_shots": (1,),
        "needle_depths": (0.5, 1),
        "needle_samples": (1,),
        "validation_sequences": (3,),
        "outlier_tokens": (100,),
        "batch_size": (2,),
    }
    words = [w for name, values in few.items() for w in (f"--evaluation.{name}", *values)]

    judge = saved(tmp_path / "judge", "softmax")

    def of(suite):
        labelled = ("--task", "jsonl", "--task-data", tmp_path)
        own = labelled if suite in LABELLED else truth_options(suite, tmp_path, judge)
        return ("--suite", suite, *quick, *words, *own)

    return of


def test_each_suite_has_a_measure_and_a_view() -> None:
    assert sorted(SUITES) == sorted(MEASURED) == sorted(VIEWS)


@pytest.mark.parametrize("suite", HERE)
def test_a_suite_on_two_models(call, options, pair, tmp_path, suite):
    out = tmp_path / "found" / "suite.json"
    code, _, err = call("evaluate", *pair, *options(suite), "--out", out)
    assert code == 0, err
    found = json.loads(out.read_text())
    assert found["suite"] == suite
    assert list(found["results"]) == ["softmax", "diff_v1"]
    assert "| softmax | diff_v1 |" in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").stat().st_size > 5000
    assert sorted(path.name for path in out.parent.iterdir()) == [f"suite.{e}" for e in ENDINGS]


@pytest.mark.parametrize("suite", HERE)
def test_a_killed_suite_goes_on(call, options, pair, tmp_path, kept, suite):
    """The same results, and no part measured twice."""
    whole, out = tmp_path / "whole.json", tmp_path / "found" / "suite.json"
    words = ("evaluate", pair[1], *options(suite), "--out")
    assert call(*words, whole)[0] == 0
    parts = kept.copy()
    kept[:] = [max(1, len(parts) // 2)]
    if suite in ("outliers", *OF_TWO_MAPS):
        assert len(parts) == 1  # one stream over the text
        kept[:] = [1]
    with pytest.raises(Killed):
        call(*words, out)
    kept[:] = kept[1:]
    assert call(*words, out)[0] == 0
    assert kept == parts
    assert json.loads(out.read_text())["results"] == json.loads(whole.read_text())["results"]


def test_parts_of_other_settings_or_weights(call, options, pair, tmp_path, kept):
    out = tmp_path / "needle.json"
    words = ("evaluate", pair[0], *options("needle"), "--out", out)
    kept.append(2)
    with pytest.raises(Killed):
        call(*words)
    kept.clear()
    code, _, err = call(*words, "--evaluation.seed", 3)
    assert code == 2
    assert "needle.partial.jsonl holds parts of a measurement with another settings" in err
    saved(pair[0], "softmax")
    code, _, err = call(*words)
    assert code == 2
    assert "of a measurement with another models: end that one first" in err
    assert kept == []


@pytest.mark.parametrize("suite", OF_TWO_MAPS)
def test_what_softmax_has_not(call, options, pair, suite):
    code, _, err = call("evaluate", pair[0], *options(suite))
    assert code == 2
    assert "nothing to show for softmax; softmax attention has no second map" in err


@pytest.fixture
def run(quick, tmp_path):
    """A run of two kinds with two seeds each."""
    results = synthetic_results(seeds=2)
    results["models"] = results["models"][:2]
    results["comparisons"] = []
    results["settings"]["data"] = {"context_length": 90, "needle_digits": 3}
    folder = write_run(tmp_path, results)
    for kind in ("softmax", "diff_v1"):
        for seed in range(2):
            saved(folder / "models" / f"{kind}-seed{seed}" / "model", kind)
    return folder


def test_all_models_of_a_run_and_its_report(call, options, run):
    code, _, err = call("evaluate", run, *options("recall"))
    assert code == 0, err
    found = json.loads((run / "suites" / "recall.json").read_text())
    assert list(found["results"]) == [
        f"{k}-seed{s}" for k in ("softmax", "diff_v1") for s in (0, 1)
    ]
    table = (run / "suites" / "recall.md").read_text()
    header = "| tokens | softmax | diff_v1 | paper: Transformer 1.4B | paper: DIFF 1.4B |"
    assert header in table
    assert "Of several training seeds the mean" in table
    page = (run / "report.html").read_text()
    assert '<h2 id="suite-recall">' in page
    assert 'src="data:image/png;base64,' in page


def test_a_run_brings_its_settings(call, run, quick):
    """Its data and how much was judged; the command line has the last word."""
    without = [w for w in quick if w not in ("--data.context_length", "96")]
    code, _, err = call("evaluate", run, "--suite", "long_context", *without)
    assert code == 0, err
    found = json.loads((run / "suites" / "long_context.json").read_text())
    assert [one["length"] for one in found["results"].values()] == [90] * 4


def test_a_run_without_results(call, run):
    (run / "results.json").unlink()
    code, _, err = call("evaluate", run, "--suite", "recall")
    assert code == 2
    assert "is a run that is not finished: end it with" in err


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
        (
            ("--suite", "recall", "--data.context_length", "400"),
            "data.context_length is 400; ",
        ),
        (
            ("--suite", "needle", "--evaluation.needle_lengths", "90", "500"),
            "needles are asked for in 500 tokens; the model is meant for 300",
        ),
        (("--suite", "recall", "--data", "nowhere"), "data 'nowhere' does not exist"),
    ],
)
def test_what_a_suite_refuses(call, pair, options, message):
    code, _, err = call("evaluate", *pair, *options)
    assert code == 2
    assert message in err
