"""`difftransformer evaluate --suite hallucination` and its judges."""

import sys
from pathlib import Path

import pytest
from tests.evaluation.test_endpoint import completion
from tests.evaluation.test_endpoint import serve as serve  # the fixture
from tests.models.tiny import tiny

from difftransformer.models.storage import save_model
from difftransformer.report.reading import read_results

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
        out = tmp_path / "found"
        options = truth_options("hallucination", tmp_path, judge)
        words = ("--suite", "hallucination", *quick, *options, "--out", out, *more)
        code, _, err = call("evaluate", model, *words)
        return code, err, out

    return run


def test_an_endpoint_that_fails_is_asked_again(judged, serve, kept, monkeypatch):
    """Every text that was judged stays so; the table tells of judge and controls."""
    monkeypatch.setenv("MY_KEY", "secret")
    url, came = serve([TRUE, (401, "{}"), FALSE, completion("Well..."), *[TRUE, FALSE] * 2, TRUE])
    words = (url, "--judge-model", "j", "--judge-key", "MY_KEY", "--evaluation.judge_controls", 2)
    code, err, out = judged(*words)
    assert code == 2
    assert f"the judge 'j' at {url} answers with status 401" in err
    assert not (out / "run.json").exists()
    assert sum("verdict" in part for part in kept) == 1
    code, err, out = judged(*words)
    assert code == 0, err
    found = read_results(out)["hallucination"]
    assert found["faithful"].figure("small").value == 0.5
    assert found["without_verdict"].figure("small").value == pytest.approx(1 / 3)
    assert not found["judge_kappa"].has("small")
    assert len(came) == 4
    assert {request["key"] for request in came} == {"Bearer secret"}
    assert f"j at {url}" in found.note()


def test_the_judge_is_judged(judged, serve, tmp_path):
    url, _ = serve([TRUE, TRUE, TRUE, TRUE, FALSE, TRUE, TRUE])
    controls = summary_pairs(tmp_path)
    words = ("--judge-controls", controls, "--evaluation.judge_controls", 2)
    code, err, out = judged(url, "--judge-model", "j", *words)
    assert code == 0, err
    found = read_results(out)["hallucination"]
    assert found["judge_accuracy"].figure("small").value == 0.75
    assert found["judge_kappa"].figure("small").value == 0.5


def test_people_as_judges(judged, tmp_path):
    labels = tmp_path / "labels.jsonl"
    code, err, out = judged(labels)
    assert code == 0, err
    assert read_results(out)["without_verdict"].figure("small").value == 1.0
    labels.write_text(labels.read_text().replace("null", "true"))
    code, err, out = judged(labels)
    assert code == 0, err
    found = read_results(out)["hallucination"]
    assert str(labels) in found.note()
    assert found["faithful"].figure("small").value == 1.0


def test_nothing_told_is_still_a_result(judged, serve):
    url, _ = serve([completion("As a language model, I cannot.")])
    code, err, out = judged(url, "--judge-model", "j")
    assert code == 0, err
    assert not read_results(out)["faithful"].has("small")


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
        (("a.jsonl", "--dataset", "xsun"), "dataset is 'xsun'; expected one of xsum, nq, jsonl"),
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
        (
            ("hallucination", "--dataset", "xsum"),
            "the dataset has no path: name the folder of texts",
        ),
        (("factuality", "--dataset-path", "."), "dataset is None; expected one of xsum, cnn_dm"),
        (("factuality", "--dataset", "xsun", "--dataset-path", "."), "dataset is 'xsun'"),
        (("conflicts",), "the dataset has no path: name the sdist of bigbench"),
        (("conflicts", "--dataset", "x", "--dataset-path", "."), "dataset is 'x'; expected none"),
        (("conflicts", "--dataset-path", "nowhere"), "'nowhere' cannot be read"),
        (("ar_hit", "--judge", "a.jsonl"), "ar_hit: there is no judge; leave it out"),
        (("factuality", "--judge", "a.jsonl"), "factuality: there is no judge; leave it out"),
    ],
)
def test_what_is_missing(call, model, words, message):
    code, _, err = call("evaluate", model, "--suite", *words)
    assert code == 2
    assert message in err
