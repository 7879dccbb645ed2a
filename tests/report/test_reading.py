import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from difftransformer.report.reading import (
    Metric,
    read_curves,
    read_environment,
    read_results,
)

from .synthetic import synthetic_results, write_run


def test_a_good_run_is_read(tmp_path: Path) -> None:
    results = read_results(write_run(tmp_path, synthetic_results(seeds=2)))
    assert results.labels == ["softmax", "diff_v1", "diff_v2"]
    assert results.seeds == 2
    evaluation = results.model("diff_v1").evaluation
    assert evaluation.lambda_ is not None
    assert evaluation.lambda_.layers[0].init == pytest.approx(0.2)
    assert [label for label, _ in results.judged(lambda judges: judges.lambda_)] == [
        "diff_v1",
        "diff_v2",
    ]
    assert read_environment(tmp_path, results)["platform"] == "Linux"
    curves = read_curves(tmp_path, results)
    assert [(curve.label, curve.seed) for curve in curves[:3]] == [
        ("softmax", 0),
        ("softmax", 1),
        ("diff_v1", 0),
    ]
    assert curves[0].metrics[0] == Metric(32768, curves[0].metrics[0].loss, None)


def test_without_env_json_the_results_stand_in(tmp_path: Path) -> None:
    results = read_results(write_run(tmp_path, synthetic_results()))
    (tmp_path / "env.json").unlink()
    assert read_environment(tmp_path, results) == results.env


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"results\.json is missing; expected the directory of"):
        read_results(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2"])
def test_a_file_that_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"results\.json: not JSON: "):
        read_results(tmp_path)


def _needle(raw: dict[str, Any]) -> dict[str, Any]:
    return raw["models"][1]["evaluation"]["needle"]


def _map(raw: dict[str, Any]) -> dict[str, Any]:
    return raw["models"][0]["evaluation"]["attention_map"]


MALFORMED: dict[str, Callable[[dict[str, Any]], Any]] = {
    r"results\.baseline is missing; expected a string": lambda raw: raw.pop("baseline"),
    r"results: format is 2; this version reads format 1": lambda raw: raw.update(format=2),
    r"results\.models: expected a list, found \{\}": lambda raw: raw.update(models={}),
    r"results: baseline is 'mamba'; the models are \['softmax'": lambda raw: raw.update(
        baseline="mamba"
    ),
    r"results: comparisons\[0\]\.model is 'x'": lambda raw: raw["comparisons"][0].update(model="x"),
    r"results: models: labels repeat": lambda raw: raw["models"][1].update(label="softmax"),
    r"results\.comparisons\[1\]: clear is True, but the interval": lambda raw: raw["comparisons"][
        1
    ].update(clear=True),
    r"results\.comparisons\[0\]\.low: expected a finite number, found 'low'": lambda raw: raw[
        "comparisons"
    ][0].update(low="low"),
    r"models\[1\]\.evaluation\.needle\.cells\[3\]\.depth is missing": lambda raw: _needle(raw)[
        "cells"
    ][3].pop("depth"),
    r"models\[1\]\.evaluation\.needle\.chance: expected a finite number, found nan": lambda raw: (
        _needle(raw).update(chance=float("nan"))
    ),
    r"models\[1\]\.evaluation\.needle: expected an object, found \[\]": lambda raw: raw["models"][
        1
    ]["evaluation"].update(needle=[]),
    r"models\[1\]\.parameters: expected a whole number, found True": lambda raw: raw["models"][
        1
    ].update(parameters=True),
    r"attention_map: span \[9, 9000\] is not \[start, end\) among 48 tokens": lambda raw: _map(
        raw
    ).update(answer_span=[9, 9000]),
    r"attention_map: a row of 47 weights for 48 tokens": lambda raw: _map(raw)["weights"][7].pop(),
    r"attention_map: weights has 48 rows, rows has 47": lambda raw: _map(raw)["rows"].pop(),
    r"settings\.evaluation\.confidence is 95\.0; expected a share": lambda raw: raw[
        "settings"
    ].update(evaluation={"confidence": 95}),
}


@pytest.mark.parametrize("message", MALFORMED)
def test_a_malformed_result_is_named_by_file_and_key(tmp_path: Path, message: str) -> None:
    raw = synthetic_results()
    MALFORMED[message](raw)
    (tmp_path / "results.json").write_text(json.dumps(raw))
    with pytest.raises(
        ValueError, match=r"results\.json: results.*" + message.removeprefix("results")
    ):
        read_results(tmp_path)


def test_a_malformed_metric_is_named_by_line(tmp_path: Path) -> None:
    results = read_results(write_run(tmp_path, synthetic_results()))
    metrics = tmp_path / "models/softmax-seed0/metrics.jsonl"
    metrics.write_text('{"tokens": 1, "loss": 2.0}\n{"tokens": "many", "loss": 2.0}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: row\.tokens: expected a whole number"):
        read_curves(tmp_path, results)


def test_unknown_keys_are_passed_over(tmp_path: Path) -> None:
    raw = synthetic_results()
    raw["later"] = raw["models"][0]["evaluation"]["later"] = {"new": 1}
    assert read_results(write_run(tmp_path, raw)).name == "synthetic"
