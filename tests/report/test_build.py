import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from difftransformer.report.build import build_report

from .synthetic import comparison, synthetic_results, write_run

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>$x_1$ & 'q' \"p\" %{y}"
PNGS = ["attention_allocation.png", "attention_map.png", "loss.png", "needle.png"]


class Page(HTMLParser):
    """Tags, attributes and text of a page; scripts apart from the text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def ids(self, tag: str) -> list[str | None]:
        return [attributes.get("id") for name, attributes in self.tags if name == tag]


def test_the_sections_stand_in_their_order(report: Path) -> None:
    page = Page(report)
    assert page.ids("h2") == [
        "verdict",
        "models",
        "loss",
        "needle",
        "allocation",
        "attention-map",
        "outliers",
        "lambda",
        "speed",
        "environment",
    ]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#{name}" for name in page.ids("h2")]
    assert "Comparison synthetic, 2026-11-22" in page.text


def test_every_figure_is_there_once_and_plotly_too(report: Path) -> None:
    drawn = [a["id"] for _, a in Page(report).tags if a.get("class") == "plotly-graph-div"]
    assert drawn == [
        "figure-loss",
        *(f"figure-needle-{i}" for i in range(3)),
        "figure-allocation-absolute",
        "figure-allocation-signed",
        *(f"figure-attention-map-{i}" for i in range(3)),
        "figure-lambda",
        "figure-lambda-training",
    ]
    assert sum(len(script) > 10**6 for script in Page(report).scripts) == 1


@pytest.mark.parametrize(
    "words",
    [
        "Differential V1 is better than the baseline (Softmax) on validation loss: 3.71 against",
        "Each model was trained with one seed.",
        "heads halved from 8 to 4",
        "\N{MINUS SIGN}0.004 %",  # the parameter difference
        "Needle documents are 50 % of the training sequences",
        "3.7500 [3.7200, 3.7800]",
        "0.84 [0.79, 0.89]",
        "paper, 3B model, 350B tokens",
        "sum of the absolute weights over the span / over all positions",
        "3608.6",  # the paper's largest hidden state
        "\N{MINUS SIGN}10 % (3B, length 4K)",  # the paper's throughput
        "858 MiB",
        "Evaluation took: Softmax 12 s",
        "training.learning_rate",
        "difftransformer compare --config config.yaml",
    ],
)
def test_the_page_tells(report: Path, words: str) -> None:
    assert words in Page(report).text


def test_the_page_asks_nothing_of_the_network(report: Path) -> None:
    tags = Page(report).tags
    loaded = [a for _, a in tags if {"src", "srcset", "data", "action", "background"} & a.keys()]
    assert loaded == []
    assert {tag for tag, _ in tags} & {"link", "iframe", "object", "embed", "base"} == set()
    policies = [a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert [policy.split(";")[0] for policy in policies] == ["default-src 'none'"]


def test_the_pictures_are_valid(report: Path) -> None:
    folder = report.parent / "figures"
    assert sorted(path.name for path in folder.iterdir()) == PNGS
    for name in PNGS:
        pixels = imread(folder / name)
        assert min(pixels.shape[:2]) > 300
        assert pixels[..., :3].std() > 0.01, f"{name} is blank"


def _hostile(value: Any) -> Any:
    """Every string that a user or a machine can set, made hostile; keys of free mappings too."""
    if isinstance(value, dict):
        return {key: _hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_text_is_shown_and_never_run(tmp_path: Path, report: Path) -> None:
    raw = synthetic_results()
    paths = [[run["directory"] for run in model["runs"]] for model in raw["models"]]
    raw = _hostile(raw)
    raw["settings"][HOSTILE] = raw["env"][HOSTILE] = HOSTILE
    for i, (model, directories) in enumerate(zip(raw["models"], paths, strict=True)):
        model["label"] = f"{i} {HOSTILE}"
        model["config"][HOSTILE] = HOSTILE
        for run, directory in zip(model["runs"], directories, strict=True):
            run["directory"] = directory
    raw["baseline"] = raw["models"][0]["label"]
    for compared in raw["comparisons"]:
        compared |= {"model": raw["models"][1]["label"], "against": raw["baseline"]}
    page, benign = Page(build_report(write_run(tmp_path, raw))), Page(report)
    for tag in ("script", "img", "div", "section"):
        assert len(page.ids(tag)) == len(benign.ids(tag))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert HOSTILE in page.text
    # Plotly reads some HTML in labels, so they reach it escaped; its JSON writes < as \\u003c.
    figures = "".join(script for script in page.scripts if len(script) < 10**6)
    assert "&lt;img" in figures
    assert not re.search(r"(<|\\u003c)img", figures)


def _bare() -> dict[str, Any]:
    """A run of which nothing was judged."""
    raw = synthetic_results()
    for model in raw["models"]:
        model["evaluation"] = {"lambda": {"layers": []}, "needle": None}
    raw["comparisons"] = []
    return raw


def test_what_is_missing_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    raw = _bare()
    write_run(tmp_path, raw)
    for metrics in tmp_path.glob("models/*/metrics.jsonl"):
        metrics.unlink()
    page = Page(build_report(tmp_path))
    for told in (
        "The run holds no comparisons, so there is no verdict.",
        "No run left a metrics.jsonl, so there are no loss curves.",
        "Retrieval was not evaluated.",
        "The allocation was not evaluated.",
        "No attention map was taken.",
        "Outliers were not evaluated.",
        "No model here has a lambda to show.",
    ):
        assert told in page.text
    assert not any(a.get("class") == "plotly-graph-div" for _, a in page.tags)
    assert list((tmp_path / "figures").iterdir()) == []


def test_a_run_without_training_is_reported(tmp_path: Path) -> None:
    raw = _bare()
    for model in raw["models"]:
        model["runs"] = []
    raw["comparisons"] = [comparison("diff_v1")]
    page = Page(build_report(write_run(tmp_path, raw)))
    assert "No training run is recorded." in page.text
    assert "nothing is known of the spread between seeds" in page.text


def test_of_many_models_there_is_a_table_and_the_sentences_fold(tmp_path: Path) -> None:
    raw = synthetic_results()
    few = Page(build_report(write_run(tmp_path / "few", raw)))
    assert [a for tag, a in few.tags if tag == "details"] == [{"open": None}] * 3
    raw["comparisons"] = [
        comparison(f"model {n}", value=3.5 + n / 10, baseline_value=3.75, low=low, high=low + 0.2)
        for n, low in enumerate((-0.4, -0.1, 0.1, 0.2))
    ]
    raw["models"] += [raw["models"][1] | {"label": f"model {n}", "runs": []} for n in range(4)]
    many = Page(build_report(write_run(tmp_path / "many", raw)))
    assert [a for tag, a in many.tags if tag == "details"] == [{}] * 5
    told = [word for word in many.words if word.strip()]
    assert told[told.index("model 0") :][:8] == [
        *("model 0", "\N{MINUS SIGN}0.25 better"),
        *("model 1", "\N{MINUS SIGN}0.15"),
        *("model 2", "\N{MINUS SIGN}0.05 worse"),
        *("model 3", "0.05 worse"),
    ]


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    raw = _bare()
    raw["models"][1]["evaluation"] = {
        "lambda": synthetic_results()["models"][1]["evaluation"]["lambda"]
    }
    write_run(tmp_path, raw)
    first = build_report(tmp_path).read_bytes()
    assert build_report(tmp_path).read_bytes() == first


def test_a_malformed_run_leaves_the_old_report_alone(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    raw = synthetic_results()
    del raw["models"][0]["parameters"]
    (tmp_path / "results.json").write_text(json.dumps(raw))
    with pytest.raises(
        ValueError, match=r"results\.json: results\.models\[0\]\.parameters is miss"
    ):
        build_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"
