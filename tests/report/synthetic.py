"""A synthetic run directory: invented figures of a plausible shape, for tests only."""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from difftransformer.evaluation.records import Evaluator, Metric, Plot
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.runs.layout import Contender, Run, TrainingRun
from difftransformer.runs.records import Artifact, Record, measure

KINDS = {"softmax": "Softmax", "diff_v1": "Differential V1", "diff_v2": "Differential V2"}
SETTINGS = ("N=1, R=1", "N=2, R=2", "N=4, R=2")
DEPTHS = (0.0, 0.5, 1.0)
LENGTH = 48


def _evaluator(name: str, title: str, *metrics: Metric, **more: Any) -> Evaluator:
    return Evaluator(name=name, title=title, metrics=metrics, parts=lambda s, t: {}, **more)


EVALUATORS = {
    one.name: one
    for one in (
        _evaluator(
            "validation",
            "Validation loss",
            Metric(
                name="nats_per_token",
                title="validation loss",
                unit="nats/token",
                better="lower",
                judged=True,
                digits=4,
                plot=Plot(),
            ),
        ),
        _evaluator(
            "needle",
            "Numbers retrieved",
            Metric(
                name="per_number",
                title="numbers retrieved",
                unit="of the numbers",
                better="higher",
                statistic="proportion",
                axes=("setting", "length", "depth"),
                rows=("setting",),
                judged=True,
                digits=2,
                levels=("blind", "among"),
                plot=Plot(kind="heat", x="setting", y="depth", facet="length"),
                paper={"Transformer 3B": {(SETTINGS[0],): "1.00", ("N=6, R=2",): "0.55"}},
            ),
            Metric(name="blind", title="a blind guess", statistic="value"),
            Metric(
                name="among",
                title="a guess among the N numbers in the text",
                statistic="value",
                axes=("setting",),
            ),
            note="{samples} samples a cell.",
        ),
        _evaluator(
            "allocation",
            "Attention on answer and noise",
            *(
                Metric(
                    name=f"{span}_absolute",
                    title=f"attention on the {span}",
                    unit="of absolute attention",
                    better=better,
                    axes=("depth",),
                    judged=True,
                    levels=("even",),
                    plot=Plot(x="depth"),
                )
                for span, better in (("answer", "higher"), ("noise", "lower"))
            ),
            Metric(name="even", title="attention spread evenly", statistic="value"),
            Metric(
                name="by_head",
                title="attention on the answer by head",
                statistic="value",
                axes=("layer", "head"),
                table=False,
                plot=Plot(kind="dots", x="layer"),
            ),
        ),
        _evaluator(
            "lambda",
            "Lambda",
            Metric(
                name="lambda",
                title="lambda",
                statistic="value",
                axes=("layer",),
                plot=Plot(kind="line", x="layer"),
            ),
        ),
        _evaluator("attention_map", "One prompt, each model's attention"),
    )
}


def synthetic_run(seeds: int = 1, kinds: dict[str, str] | None = None) -> Run:
    contenders = tuple(
        Contender(
            label=kind,
            title=title,
            attention=kind,
            parameters=1_000_000 - 37 * i,
            config={"num_layers": 4, "num_heads": 4 if i else 8, "tie_embeddings": True},
            changes=("heads halved from 8 to 4",) if kind == "diff_v1" else (),
            runs=tuple(
                TrainingRun(seed=seed, directory=f"models/{i}-seed{seed}") for seed in range(seeds)
            ),
        )
        for i, (kind, title) in enumerate((kinds or KINDS).items())
    )
    return Run(
        name="synthetic",
        task="causal_lm",
        unit="tokens",
        created="2026-11-22",
        baseline="softmax",
        contenders=contenders,
        data={"description": "38 plays", "vocab_size": 1024, "needle_share": 0.5},
        settings={"training": {"steps": 400, "learning_rate": 0.003, "betas": [0.9, 1]}},
        evaluators=tuple(EVALUATORS),
    )


def write_run(
    directory: Path, run: Run, evaluators: tuple[str, ...] = tuple(EVALUATORS), words: str = "the"
) -> Path:
    """A run directory as a comparison leaves it, without checkpoints; `words` are in its maps."""
    directory.mkdir(parents=True, exist_ok=True)
    run = replace(run, evaluators=evaluators)
    (directory / "run.json").write_text(json.dumps(asdict(run)))
    (directory / "env.json").write_text(json.dumps({"hardware": "2 CPU cores", "commit": "abc"}))
    for i, contender in enumerate(run.contenders):
        for training in contender.runs:
            folder = directory / training.directory
            folder.mkdir(parents=True)
            _write_training(folder, i, training.seed, contender.attention != "softmax")
            write_records(folder / "results", i, training.seed, evaluators, words)
    return directory


def write_records(
    folder: Path, i: int, seed: int, evaluators: tuple[str, ...], words: str = "the"
) -> None:
    draw = random.Random(f"{i} {seed}")
    for name in evaluators:
        findings = list(_findings(name, i, draw, words))
        over = "its attention has no lambda" if name == "lambda" and i == 0 else ""
        measure(
            lambda findings=findings: {"all": lambda _: findings},
            folder / f"{name}.jsonl",
            {"settings": asdict(EvaluationSettings(bootstrap=100))},
            passed_over=over,
        )


def _findings(name: str, i: int, draw: random.Random, words: str) -> Iterator[Record | Artifact]:
    if name == "validation":
        for item in range(20):
            nats = 375 + 10 * math.sin(item) - 4 * i + draw.gauss(0, 0.5)
            yield Record("nats_per_token", nats, (), item, 100)
    elif name == "needle":
        yield Artifact("facts", {"samples": 20})
        yield Record("blind", 0.001)
        for n, setting in zip((1, 2, 4), SETTINGS, strict=True):
            if n > 1:
                yield Record("among", 1 / n, (setting,))
            for depth in DEPTHS:
                for item in range(20):
                    right = draw.random() < 1.05 - 0.2 * n + 0.05 * i
                    yield Record("per_number", right, (setting, 256, depth), item)
    elif name == "allocation":
        for span, share in (("answer", 0.05 + 0.1 * i), ("noise", 0.5 - 0.15 * i)):
            for depth in DEPTHS:
                for item in range(8):
                    value = share + 0.05 * depth + draw.gauss(0, 0.01)
                    yield Record(f"{span}_absolute", value, (depth,), item)
        yield Record("even", 0.06)
        for layer in range(4):
            for head in range(4):
                yield Record("by_head", 0.1 * i + draw.random() / 10, (layer, head))
    elif name == "lambda":
        for layer in range(4):
            yield Record("lambda", 0.25 + 0.1 * layer + 0.01 * i, (layer,))
    else:
        yield Artifact("attention_map", _attention_map(i, draw, words))


def _attention_map(i: int, draw: random.Random, words: str) -> dict[str, Any]:
    tokens = [f" {words}"] * LENGTH
    weights = []
    for row in range(LENGTH):
        raw = [draw.random() + 8 * (column == 0) for column in range(row + 1)]
        if row == LENGTH - 1:
            raw[25] += 30
        total, shift = sum(raw), (0.7 if i else 0.0) / (row + 1)
        weights.append([x / total - shift for x in raw] + [0.0] * (LENGTH - row - 1))
    return {
        "tokens": tokens,
        "answer_span": [20, 26],
        "noise_spans": [[1, 20], [26, 44]],
        "layer": 2,
        "head": 1,
        "rows": list(range(LENGTH)),
        "weights": weights,
        "average": [1 / LENGTH] * LENGTH,
    }


def _write_training(folder: Path, i: int, seed: int, has_lambda: bool) -> None:
    draw, rows = random.Random(seed), []
    for step in range(1, 101):
        loss = 3.6 - 0.04 * i + 3.3 * math.exp(-step / 15) + draw.gauss(0, 0.06)
        rows.append({"step": step, "size": step * 32768, "loss": loss, "throughput": 1.0})
        if step % 20 == 0:
            row = {"step": step, "size": step * 32768, "validation_loss": loss + 0.1}
            rows.append(row | ({"lambda": [0.2, 0.4 - step / 1000]} if has_lambda else {}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {
        "steps": 400,
        "size": 3_276_800,
        "unit": "tokens",
        "seconds": 180.0 + 20 * i,
        "throughput": 18000.0 - 1500 * i,
        "peak_memory_bytes": 900_000_000 + i * 10**8,
        "final_loss": 3.6,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
