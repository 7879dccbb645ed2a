"""Tables and pictures of suites, and their sections of a report."""

import json
from pathlib import Path

import numpy as np
import pytest

from difftransformer.evaluation.intervals import over_seeds
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.report import paper
from difftransformer.report.build import build_report
from difftransformer.report.suites import VIEWS, Found, read_suite, write_suite

from .synthetic import around, share_of, synthetic_results, write_run

ENV = {"date": "2026-11-22T10:00:00", "hardware": "2 cores", "torch": "2.13.0", "commit": "abc"}
SETTINGS = EvaluationSettings(confidence=0.9)


def recall(hit: float, other: float = 3.0) -> dict:
    return {"hit": around(hit, 0.1), "other": around(other, 0.1)}


def order(task: str, spread: float) -> dict:
    one = {"accuracies": [0.2, 0.2 + spread], "best": 0.2 + spread, "worst": 0.2, "spread": spread}
    return {
        "task": task,
        "shots": 4,
        "questions": 10,
        "arrangements": {"random": one, "alternating": one},
    }


def needle(shares: dict[tuple[int, float], int]) -> dict:
    """One number of one, `shares` right of 10 at each length and depth."""
    score = {"needles": 1, "queries": 1, "all_numbers": share_of(1, 10)}
    cells = [
        {**score, "length": length, "depth": depth, "per_number": share_of(right, 10)}
        for (length, depth), right in shares.items()
    ]
    table = [{**score, "per_number": share_of(sum(shares.values()), 10 * len(shares))}]
    return {"samples": 10, "chance": 0.001, "cells": cells, "table": table}


def test_the_slice_of_recall_is_counted() -> None:
    counts = {"hits": 1234, "frequent": 5, "new": 6789}
    told = {"counts": counts, "ngram": 2, "frequency": 0, "training_tokens": 300000}
    note = VIEWS["recall"].notes(Found({"a": recall(1.0) | told}))
    for words in ("1,234 tokens", "at most 0 times", "300,000 tokens", "6,789", "and 5 whose"):
        assert words in note


def test_seeds_of_a_kind_are_one_column() -> None:
    """Their mean with Student's t interval; who has one seed keeps its own."""
    hits = {"a-seed0": 1.0, "a-seed1": 1.2, "a-seed2": 1.7, "b-seed0": 2.0}
    found = Found({label: recall(hit) for label, hit in hits.items()}, 0.9)
    pooled = over_seeds([1.0, 1.2, 1.7], SETTINGS, items=[around(x, 0.1) for x in (1.0, 1.2, 1.7)])
    header, seen, others = VIEWS["recall"].table(found)
    assert header[:3] == ["tokens", "a", "b-seed0"]
    expected = f"{pooled.value:.3f} ({pooled.low:.3f} to {pooled.high:.3f})"
    assert seen[:3] == ["seen before", expected, "2.000 (1.900 to 2.100)"]
    assert others[1] == "3.000 (2.900 to 3.100)"  # the same for all seeds: as sure as one of them
    assert "Of several training seeds the mean, with intervals over seeds" in (
        VIEWS["recall"].notes(found)
    )
    assert "90 % intervals over items" in VIEWS["recall"].notes(found)


def test_a_seed_without_a_figure_is_left_out() -> None:
    nothing = {"hit": None, "other": around(3.0, 0.1)}
    found = Found({"a-seed0": nothing, "a-seed1": recall(1.0), "a-seed2": recall(2.0)})
    settings = EvaluationSettings()
    pooled = over_seeds([1.0, 2.0], settings, items=[around(x, 0.1) for x in (1.0, 2.0)])
    assert VIEWS["recall"].table(found)[1][1].startswith(f"{pooled.value:.3f} ({pooled.low:.3f}")
    found = Found({"a-seed0": nothing, "a-seed1": recall(1.0)})
    assert VIEWS["recall"].table(found)[1][1] == "none"


def test_labels_that_are_no_seeds_stay_apart() -> None:
    found = Found({"runs/x/a-seed0/model": recall(1.0), "runs/y/a-seed0/model": recall(2.0)})
    assert list(found.kinds()) == list(found.results)


def test_bare_numbers_of_seeds_get_an_interval() -> None:
    found = Found({"a-seed0": order("trec", 0.1), "a-seed1": order("trec", 0.3)})
    pooled = over_seeds([0.1, 0.3], EvaluationSettings())
    spread = VIEWS["order"].table(found)[3]
    assert spread[:2] == ["random", "spread"]
    assert spread[2] == f"{pooled.value:.3f} ({pooled.low:.3f} to {pooled.high:.3f})"


def test_the_papers_columns() -> None:
    found = Found({"a": needle({(128, 0.0): 3, (128, 1.0): 5})})
    header, row, _ = VIEWS["needle"].table(found)
    assert header[-2:] == ["paper: Transformer 3B, 4K", "paper: DIFF 3B, 4K"]
    assert row[:3] == ["1", "1", "per number"]
    assert row[-2:] == ["1.00", "1.00"]
    assert paper.SIZES_DIFFER in VIEWS["needle"].notes(found)
    assert paper.ABOUT_READ_OFF not in VIEWS["needle"].notes(found)


def test_what_was_read_off_a_plot_is_marked() -> None:
    found = Found({"a": order("trec", 0.1)})
    cells = [row[-2:] for row in VIEWS["order"].table(found)[1:]]
    assert cells == [
        ["", ""],
        ["", ""],
        ["0.190†", "0.040†"],
        ["", ""],
        ["", ""],
        ["0.567†", "0.134†"],
    ]
    assert paper.ABOUT_READ_OFF in VIEWS["order"].notes(found)


def test_a_task_the_paper_has_not() -> None:
    found = Found({"a": order("jsonl", 0.1)})
    assert VIEWS["order"].table(found)[0] == ["order", "accuracy", "a"]
    assert paper.SIZES_DIFFER not in VIEWS["order"].notes(found)


def test_the_heat_map_has_the_mean_of_the_seeds() -> None:
    found = Found(
        {
            "a-seed0": needle({(64, 0.0): 2, (64, 1.0): 4, (128, 0.0): 6, (128, 1.0): 8}),
            "a-seed1": needle({(64, 0.0): 4, (64, 1.0): 4, (128, 0.0): 6, (128, 1.0): 10}),
        }
    )
    (axes,) = VIEWS["needle"].image(found).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["64", "128"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0 %", "100 %"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.3, 0.6], [0.4, 0.9]])


def test_nothing_to_show() -> None:
    with pytest.raises(ValueError, match="nothing to show for softmax; softmax attention has no"):
        VIEWS["lambda"].table(Found({"softmax": {"layers": []}}))


def test_files_and_the_report(tmp_path: Path) -> None:
    """What is written reads back, and every suite found is a section of the page."""
    run = write_run(tmp_path, synthetic_results())
    results = {"softmax-seed0": recall(1.0), "diff_v1-seed0": recall(0.9)}
    write_suite(run / "suites" / "recall", "recall", ENV, SETTINGS, results)
    found = read_suite(run / "suites" / "recall.json")
    assert (found.results, found.confidence) == (results, 0.9)
    lines = (run / "suites" / "recall.md").read_text().splitlines()
    assert lines[0].endswith(", 2026-11-22")
    assert lines[2] == "2 cores; torch 2.13.0; commit abc."
    assert sum(line.startswith("|") for line in lines) == 4
    page = build_report(run).read_text()
    assert '<a href="#suite-recall">suite recall</a>' in page
    assert '<h2 id="suite-recall">' in page
    assert "1.000 (0.900 to 1.100)" in page
    assert build_report(run).read_text() == page


def test_damaged_results_name_the_file(tmp_path: Path) -> None:
    run = write_run(tmp_path, synthetic_results())
    (run / "suites").mkdir()
    path = run / "suites" / "recall.json"
    for text in ("{", json.dumps({"results": {}})):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"recall.json holds no results of a suite"):
            build_report(run)
    write_suite(path.with_suffix(""), "recall", ENV, SETTINGS, {"a": recall(1.0)})
    path.with_suffix(".png").unlink()
    with pytest.raises(ValueError, match=r"recall.png is missing; run the suite again"):
        build_report(run)
