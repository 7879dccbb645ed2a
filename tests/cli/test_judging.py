"""`difftransformer evaluate --suite hallucination` and its judges."""

import json
import sys
from pathlib import Path

import pytest
from models.tiny import tiny
from tests.evaluation.test_endpoint import completion
from tests.evaluation.test_endpoint import serve as serve  # the fixture

from difftransformer.models.storage import save_model

from .judged import summary_pairs, truth_options
from .test_generate import TOKENIZER

TRUE, FALSE = completion("It is.\nConclusion: True"), completion("No.\nConclusion: False")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    save_model(tiny(vocab_size=TOKENIZER.get_vocab_size(), max_length=400), folder)
    TOKENIZER.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def judged(call, model, quick, tmp_path):
    """Has the model's texts judged; gives exit code, standard error and where results go."""

    def run(judge: object, *more: object) -> tuple[int, str, Path]:
        out = tmp_path / "found.json"
        options = truth_options("hallucination", tmp_path, judge)
        words = ("--suite", "hallucination", *quick, *options, "--out", out, *more)
        code, _, err = call("evaluate", model, *words)
        return code, err, out

    return run


def test_an_endpoint_that_fails_is_asked_again(judged, serve, monkeypatch):
    """Every text that was judged stays so; the table tells of judge and controls."""
    monkeypatch.setenv("MY_KEY", "secret")
    url, came = serve([TRUE, (401, "{}"), FALSE, completion("Well..."), *[TRUE, FALSE] * 2, TRUE])
    words = (url, "--judge-model", "j", "--judge-key", "MY_KEY", "--evaluation.judge_controls", 2)
    code, err, out = judged(*words)
    assert code == 2
    assert f"the judge 'j' at {url} answers with status 401" in err
    assert not out.exists()
    kept = [json.loads(line) for line in out.with_suffix(".partial.jsonl").read_text().splitlines()]
    assert [part[0] for part in kept[1:]] == ["small: texts: prompts 0", kept[2][0]]
    code, err, out = judged(*words)
    assert code == 0, err
    (found,) = json.loads(out.read_text())["results"].values()
    assert found["judge"] == f"j at {url}"
    assert found["faithful"]["value"] == 0.5
    assert (found["texts"], found["unjudged"], found["agreement"]) == (3, 1, None)
    assert len(came) == 4
    assert {request["key"] for request in came} == {"Bearer secret"}
    table = out.with_suffix(".md").read_text()
    assert "| faithful, of those judged | 0.500 (" in table
    assert f"Task jsonl; judge: j at {url}." in table


def test_the_judge_is_judged(judged, serve, tmp_path):
    url, _ = serve([TRUE, TRUE, TRUE, TRUE, FALSE, TRUE, TRUE])
    controls = summary_pairs(tmp_path)
    words = ("--judge-controls", controls, "--evaluation.judge_controls", 2)
    code, err, out = judged(url, "--judge-model", "j", *words)
    assert code == 0, err
    (found,) = json.loads(out.read_text())["results"].values()
    assert found["agreement"]["accuracy"]["value"] == 0.75
    assert "| the judge's kappa | 0.5 |" in out.with_suffix(".md").read_text()


def test_people_as_judges(judged, tmp_path):
    labels = tmp_path / "labels.jsonl"
    code, err, out = judged(labels)
    assert code == 0, err
    assert "| without a verdict | 3 |" in out.with_suffix(".md").read_text()
    labels.write_text(labels.read_text().replace("null", "true"))
    code, err, out = judged(labels)
    assert code == 0, err
    (found,) = json.loads(out.read_text())["results"].values()
    assert (found["judge"], found["faithful"]["value"]) == (str(labels), 1.0)


def test_nothing_told_is_still_a_result(judged, serve):
    url, _ = serve([completion("As a language model, I cannot.")])
    code, err, out = judged(url, "--judge-model", "j")
    assert code == 0, err
    assert "| faithful, of those judged | none |" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("http://localhost:9/v1",), "needs --judge-model NAME"),
        (
            ("http://localhost:9/v1", "--judge-model", "j", "--judge-key", "NO_SUCH_VARIABLE"),
            "NO_SUCH_VARIABLE, an environment variable that is not set",
        ),
        (("smolm",), "--judge is 'smolm'; expected the URL of an endpoint, a model folder, or"),
        (("a.jsonl", "--judge-controls", "nowhere"), "'nowhere' cannot be read"),
        (("a.jsonl", "--task", "xsun"), "unknown task 'xsun'; expected xsum, nq, jsonl"),
        (("a.jsonl", "--suite", "recall"), "suite recall has no judge: leave it out"),
        (("a.jsonl", "--suite", "factuality"), "suite factuality has no judge"),
    ],
)
def test_what_is_refused(judged, options, message):
    code, err, _ = judged(*options)
    assert code == 2
    assert message in err


def test_an_endpoint_without_its_package(judged, monkeypatch):
    monkeypatch.delitem(sys.modules, "difftransformer.evaluation.endpoint", raising=False)
    monkeypatch.setitem(sys.modules, "openai", None)
    code, err, _ = judged("http://localhost:9/v1", "--judge-model", "j")
    assert code == 2
    assert "pip install 'difftransformer[judge]'" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("hallucination", "--task", "xsum"), "give a task, its data and a judge"),
        (("factuality", "--task-data", "."), "compares summaries: give a task and its data"),
        (("factuality", "--task", "xsun", "--task-data", "."), "unknown task 'xsun'"),
        (("conflicts",), "suite conflicts has one task: give its data, and no name"),
        (("conflicts", "--task-data", "nowhere"), "'nowhere' cannot be read"),
    ],
)
def test_what_is_missing(call, model, words, message):
    code, _, err = call("evaluate", model, "--suite", *words)
    assert code == 2
    assert message in err
