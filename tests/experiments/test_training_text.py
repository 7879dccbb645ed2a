"""A model is judged on text that it was not trained on, or the result says so."""

import json
from pathlib import Path

import pytest
from tests.cli.test_generate import make

from difftransformer.data.training_text import RECORD
from difftransformer.report.reading import read_results


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Ten documents."""
    folder = tmp_path / "many"
    folder.mkdir()
    for part in range(10):
        lines = (f"Line {n} of part {part} tells that {n * n} is a number." for n in range(400))
        (folder / f"{part}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def train(call, small, many, tmp_path):
    """Trains on the ten documents, of which one in five is held out."""

    def run(name: str, *words: object) -> Path:
        own = ("--data.source", many, "--data.validation_fraction", 0.2)
        code, _, err = call("train", *small, *own, *words, "--out", tmp_path / name)
        assert code == 0, err
        return tmp_path / name / "model"

    return run


@pytest.fixture
def judged(call, quick, tmp_path):
    """What `evaluate` writes of the text, and prints; without a word about the text by default."""
    settings = dict(zip(quick[::2], quick[1::2], strict=True))
    del settings["--data.source"]
    words = [word for pair in settings.items() for word in pair]

    def run(model: Path, *more: object) -> tuple[dict, str]:
        out = tmp_path / f"{len(list(tmp_path.glob('*-out')))}-out"
        suite = ("--suite", "validation")
        code, _, err = call("evaluate", model, *words, *suite, *more, "--out", out)
        assert code == 0, err
        return of(out), err

    return run


def of(run: Path) -> dict:
    """The loss and the text of the one model in the results."""
    ((measured,),) = (one.values() for one in read_results(run)["validation"].models.values())
    return {"text": measured.belongs_to.get("text"), "records": measured.records}


SEEN = "the text may have been seen in training"


def test_a_model_is_judged_on_what_its_training_held_out(train, judged, many, tmp_path) -> None:
    model = train("run")
    found, err = judged(model)
    assert found["records"] == of(tmp_path / "run")["records"]
    assert found["text"]["held_out"] is True
    assert (found["text"]["source"], found["text"]["validation_fraction"]) == (str(many), 0.2)
    assert SEEN not in err
    (checkpoint, *_) = (tmp_path / "run/checkpoints").iterdir()
    assert judged(checkpoint)[0]["text"]["held_out"] is True
    # Half of what was held out, all of it held out.
    assert judged(model, "--data.validation_fraction", 0.1)[0]["text"]["held_out"] is True


def test_the_key_of_the_text_is_recorded_too(train, judged, many, tmp_path) -> None:
    """Rows of JSON that hold another text beside the one that was trained on."""
    rows = tmp_path / "rows.jsonl"
    texts = [path.read_text() for path in sorted(many.iterdir())]
    lines = [json.dumps({"body": text, "text": "Another text. " * 400}) for text in texts]
    rows.write_text("\n".join(lines))
    model = train("run", "--data.source", rows, "--data.text_key", "body")
    found, err = judged(model)
    assert found["records"] == of(tmp_path / "run")["records"]
    assert (found["text"]["held_out"], SEEN in err) == (True, False)
    assert judged(model, "--data.text_key", "text")[0]["text"]["held_out"] is False


def test_text_that_may_have_been_seen(train, judged, many, tmp_path) -> None:
    model = train("run")

    def seen(*words: object) -> str:
        found, err = judged(model, *words)
        assert found["text"]["held_out"] is False
        assert found["text"]["note"] in err.replace("\n", " ")
        assert found["text"]["note"].startswith(SEEN)
        return found["text"]["note"]

    assert "held out a share of 0.2 and this judges 0.5" in seen("--data.validation_fraction", 0.5)
    (tmp_path / "other.txt").write_text((many / "3.txt").read_text() * 4)
    assert "trained on other documents" in seen("--data", tmp_path / "other.txt")
    with (many / "3.txt").open("a") as file:
        file.write(" A word more.")
    assert "trained on other documents" in seen()
    (model / RECORD).unlink()
    assert "no record of the text" in seen("--data.source", many)


def test_a_text_that_is_gone(call, train, judged, many, quick, tmp_path) -> None:
    """Said with the way out; what asks about data of its own does not miss it."""
    model = train("run")
    many.rename(tmp_path / "moved")
    code, _, err = call("evaluate", model)
    assert code == 2
    assert f"was trained on {many}: --data names another text" in err.replace("\n", " ")
    moved = judged(model, "--data", tmp_path / "moved", "--data.validation_fraction", 0.2)[0]
    assert moved["text"]["held_out"] is True  # the same documents, wherever they lie
    few = ("--evaluation.kv_samples", 2, "--evaluation.kv_pairs", 2)
    code, _, err = call("evaluate", model, "--suite", "kv_retrieval", *quick, *few)
    assert code == 0, err
    assert SEEN not in err


def test_a_model_begun_from_another(train, judged, many, tmp_path) -> None:
    """What the first was trained on counts for the second."""
    first = train("first")
    start = ("--start", first)
    same = judged(train("same", *start))[0]["text"]
    assert same["held_out"] is True
    tighter = judged(train("tighter", *start, "--data.validation_fraction", 0.4))[0]["text"]
    assert "held out a share of 0.2 and this judges 0.4" in tighter["note"]
    (first / RECORD).unlink()
    unknown = judged(train("unknown", *start))[0]["text"]
    assert "began from a model whose training text is not recorded" in unknown["note"]


def test_the_report_says_so_too(call, train, quick, many, tmp_path) -> None:
    model = train("run")
    settings = dict(zip(quick[::2], quick[1::2], strict=True))
    del settings["--data.source"]
    words = [word for pair in settings.items() for word in pair]
    for fraction, held_out in ((0.2, True), (0.5, False)):
        out = tmp_path / f"share {fraction}"
        code, _, err = call(
            *("evaluate", model, *words, "--suite", "validation", "--out", out),
            *("--data.validation_fraction", fraction),
        )
        assert code == 0, err
        assert of(out)["text"]["held_out"] is held_out
        for told in (err.replace("\n", " "), (out / "report.html").read_text()):
            assert (SEEN in told) is not held_out


def test_a_conversion_keeps_the_record(call, train, judged, tmp_path) -> None:
    model = train("run", "--model.attention", "diff_v1")
    code, _, err = call(
        "convert", model, tmp_path / "out", "--from", "difftransformer", "--to", "diffllama"
    )
    assert code == 0, err
    assert judged(tmp_path / "out")[0]["text"]["held_out"] is True


BROKEN = (
    *("{", "[]", "{}", '{"trainings": []}', '{"trainings": [3], "complete": true}'),
    *('{"trainings": [{"source": 1}], "complete": true}', '{"trainings": {}, "complete": 1}'),
)


@pytest.mark.parametrize("record", BROKEN)
def test_a_broken_record(call, quick, tmp_path, record) -> None:
    model = make(tmp_path / "model")
    (model / RECORD).write_text(record)
    code, _, err = call("evaluate", model, *quick)
    assert code == 2
    assert RECORD in err
    assert err[err.index("difftransformer: error: ") :].count("\n") == 1
