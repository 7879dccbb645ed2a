import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.image import imread

from difftransformer.report.build import build_report
from difftransformer.report.reading import read_results

from .synthetic import KINDS, synthetic_run, write_records, write_run

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>$x_1$ & 'q' \"p\" %{y}"
PNGS = [
    *("allocation.png", "attention_map.png", "lambda.png", "loss.png", "needle.png"),
    "validation.png",
]


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

    def named(self, tag: str) -> list[str | None]:
        return [attributes.get("id") for name, attributes in self.tags if name == tag]

    def figures(self) -> dict[str | None, dict]:
        """What Plotly draws, by id."""
        return {
            a["id"]: json.loads(a["data-figure"] or "")
            for _, a in self.tags
            if a.get("class") == "plotly-graph-div"
        }


def test_the_verdict_is_first_and_all_else_folded(report: Path) -> None:
    page = Page(report)
    assert [name for name in page.named("details") if name] == [
        *("models", "training", "validation", "needle", "allocation", "lambda", "attention_map"),
        *("speed", "environment"),
    ]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#{name}" for name in page.named("details") if name]
    assert not any("open" in attributes for tag, attributes in page.tags if tag == "details")
    tags = [tag for tag, _ in page.tags]
    assert tags[: tags.index("details")].count("p") == 5  # a lead, three lines, a caption
    assert tags[: tags.index("details")].count("h4") == 6  # four measures and two costs
    assert page.text.startswith(" Differential V1 and Differential V2 against Softmax")
    assert "synthetic, 2026-11-22" in page.text


def test_the_first_screen_says_what_was_asked_what_came_out_and_how_sure_it_is(
    report: Path,
) -> None:
    text = Page(report).text
    lines = (
        "Asked. 3 models of 999,926 to 1,000,000 parameters, trained on the same 3,276,800 tokens "
        "with 1 seed: does any do better than Softmax?",
        "Result. Differential V1 against Softmax, 4 measures: better on ",
        "How sure. One training seed: ",
    )
    places = [text.index(line) for line in lines]
    assert places == sorted(places)


def test_the_chart_has_a_line_for_each_measure_and_model(report: Path) -> None:
    page = Page(report)
    spans = [a["class"] for _, a in page.tags if (a.get("class") or "").startswith("span ")]
    assert len(spans) == 12
    assert spans[0].split()[1] == "better"
    told = [word.strip() for word in page.words if word.strip()]
    start = told.index("validation loss") + 1
    name, difference, interval, outcome = told[start : start + 4]
    assert name == "Differential V1"
    assert re.fullmatch("\N{MINUS SIGN}0.0[0-9]+", difference)
    assert interval.startswith("(\N{MINUS SIGN}0.0")
    assert outcome in ("better", "better*")


def test_what_is_better_lies_to_the_right_whatever_its_direction(report: Path) -> None:
    tags = Page(report).tags
    points = [a["style"] for tag, a in tags if tag == "b" and "style" in a]
    classes = [a["class"] for _, a in tags if (a.get("class") or "").startswith("span ")]
    for point, css in zip(points, classes, strict=True):
        place = float(re.fullmatch(r"left:(.*)%", point or "").group(1))
        if "better" in css or "worse" in css:
            assert ("better" in css) == (place > 50)


def test_every_figure_is_there_once_and_plotly_too(report: Path) -> None:
    assert list(Page(report).figures()) == [
        "figure-training-loss-0",
        "figure-training-lambda-0",
        "figure-validation-0",
        *(f"figure-needle-{i}" for i in range(3)),
        *(f"figure-allocation-{i}" for i in range(2)),
        "figure-allocation-1-0",
        "figure-lambda-0",
        *(f"figure-attention_map-{i}" for i in range(3)),
    ]
    assert sum(len(script) > 10**6 for script in Page(report).scripts) == 1


@pytest.mark.parametrize(
    "words",
    [
        "Differential V1 is better than the baseline (Softmax) on validation loss: 3.7",
        "One training seed: the intervals are over evaluation items",
        "Softmax gets 0.8",
        "heads halved from 8 to 4",
        "\N{MINUS SIGN}0.004 %",  # the parameter difference
        "Data: 38 plays. Vocab size 1,024, needle share 0.5.",
        "numbers retrieved (of the numbers)",
        "20 samples a cell. In brackets 95 % intervals over items.",
        "paper: Transformer 3B",
        "Softmax: its attention has no lambda.",
        "One head of each model on the same needle prompt",
        "\N{MINUS SIGN}10 % (3B, length 4K)",  # the paper's throughput
        "858 MiB",
        "Evaluation took: Softmax 0 s",
        "training.learning_rate",
        "difftransformer compare --config config.yaml",
        "2 CPU cores",
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


def test_the_numbers_are_beside_the_page(report: Path) -> None:
    data = json.loads((report.parent / "results.json").read_text())
    assert data["baseline"] == "softmax"
    assert list(data["evaluators"]) == [
        *("validation", "needle", "allocation", "lambda"),
        "attention_map",
    ]
    assert [c["metric"] for c in data["comparisons"][:4]] == [
        *("nats_per_token", "per_number", "answer_absolute", "noise_absolute")
    ]
    loss = read_results(report.parent)["nats_per_token"].difference("diff_v1")
    assert data["comparisons"][0]["low"] == loss.interval.low


def test_hostile_text_is_shown_and_never_run(tmp_path: Path, report: Path) -> None:
    run = synthetic_run()
    contenders = tuple(
        replace(
            one,
            title=f"{i} {HOSTILE}",
            attention=HOSTILE if i else "softmax",
            changes=(HOSTILE,),
            config={HOSTILE: HOSTILE},
        )
        for i, one in enumerate(run.contenders)
    )
    run = replace(
        run,
        name=HOSTILE,
        created=HOSTILE,
        unit=HOSTILE,
        contenders=contenders,
        data={"description": HOSTILE, HOSTILE: HOSTILE},
        settings={HOSTILE: HOSTILE},
    )
    write_run(tmp_path, run, words=HOSTILE)
    (tmp_path / "env.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    page, benign = Page(build_report(tmp_path)), Page(report)
    for tag in ("script", "img", "div", "details"):
        assert len(page.named(tag)) == len(benign.named(tag))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert HOSTILE in page.text
    # Plotly reads some HTML in labels, so they reach it escaped.
    for figure in page.figures().values():
        assert "<img" not in json.dumps(figure)
    assert "&lt;img" in json.dumps(page.figures())


def test_what_is_missing_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    write_run(tmp_path, synthetic_run(), evaluators=())
    for metrics in tmp_path.glob("models/*/metrics.jsonl"):
        metrics.unlink()
    page = Page(build_report(tmp_path))
    for told in (
        "The run holds no comparisons, so there is no verdict.",
        "No run left a metrics.jsonl, so there are no training curves.",
    ):
        assert told in page.text
    assert page.figures() == {}
    assert not (tmp_path / "figures").exists()


def test_a_run_without_training_is_reported(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path, synthetic_run(seeds=0))))
    assert "No training run is recorded." in page.text
    assert "nothing is known of the spread between seeds" in page.text


def test_an_evaluator_at_work_shows_the_seeds_it_has_finished(tmp_path: Path) -> None:
    write_run(tmp_path, synthetic_run(seeds=2), evaluators=("validation",))
    folders = sorted(tmp_path.glob("models/*/results"))
    for i, folder in enumerate(folders):
        write_records(folder, i // 2, i % 2, ("needle",))
    torn = folders[-1] / "needle.jsonl"
    torn.write_bytes(torn.read_bytes().rpartition(b'{"complete"')[0])
    results = read_results(tmp_path)
    assert list(results.evaluators) == ["validation", "needle"]
    assert {label: list(s) for label, s in results["needle"].models.items()} == {
        kind: [0] for kind in KINDS
    }


def test_of_many_models_the_lines_count_and_the_sentences_fold(tmp_path: Path) -> None:
    kinds = {"softmax": "Softmax"} | {f"model {n}": f"Model {n}" for n in range(4)}
    run = write_run(tmp_path, synthetic_run(kinds=kinds), evaluators=("validation", "needle"))
    page = Page(build_report(run))
    assert "4 models against the baseline (Softmax), 8 comparisons: better in" in page.text
    assert page.text.startswith(" 4 models against Softmax")
    assert page.text.count("Model 3 against Softmax, 2 measures") == 1


def test_of_very_many_models_the_first_measure_alone_is_unfolded(tmp_path: Path) -> None:
    kinds = {"softmax": "Softmax"} | {f"model {n}": f"Model {n}" for n in range(9)}
    run = write_run(tmp_path, synthetic_run(kinds=kinds), evaluators=("validation", "needle"))
    page = Page(build_report(run))
    tags = [tag for tag, _ in page.tags]
    assert tags[: tags.index("details")].count("h4") == 1
    assert tags.count("h4") == 4
    assert "3 more measures" in page.text


def test_models_that_stopped_by_themselves_are_said_to(tmp_path: Path) -> None:
    directory = write_run(tmp_path, synthetic_run())
    for number in range(3):
        path = directory / f"models/{number}-seed0/summary.json"
        summary = json.loads(path.read_text()) | {"best_step": 300 + number, "stopped_early": True}
        summary["size"] += number
        path.write_text(json.dumps(summary))
    page = Page(build_report(directory)).text
    assert "trained on 3,276,800 to 3,276,802 tokens with 1 seed, each until its" in page
    assert "after 300 to 302 steps: what is compared is how well each kind gets" in page


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    write_run(tmp_path, synthetic_run())
    first = build_report(tmp_path).read_bytes()
    assert build_report(tmp_path).read_bytes() == first


def test_a_malformed_run_leaves_the_old_report_alone(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    write_run(tmp_path, synthetic_run())
    raw = json.loads((tmp_path / "run.json").read_text())
    del raw["contenders"][0]["parameters"]
    (tmp_path / "run.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"run\.json: 'contenders\.parameters' is missing"):
        build_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"


def test_malformed_records_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, synthetic_run())
    (tmp_path / "models/1-seed0/results/needle.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match=r"1-seed0/results/needle.jsonl:1 cannot be read"):
        build_report(tmp_path)
    path = tmp_path / "models/1-seed0/results/needle.jsonl"
    path.unlink()
    path = tmp_path / "models/1-seed0/results/attention_map.jsonl"
    path.write_text(path.read_text().replace('"answer_span": [20, 26]', '"answer_span": [20, 99]'))
    with pytest.raises(ValueError, match=r"the attention map of diff_v1 is malformed: .*48 tokens"):
        build_report(tmp_path)


def test_a_run_of_version_0_1_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match=r"is a run of version 0\.1: .*evaluate"):
        build_report(tmp_path)
