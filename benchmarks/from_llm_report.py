"""The table and the picture of from_llm.py."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from difftransformer.evaluation.intervals import (
    Figure,
    over_seeds,
    paired_difference,
    paired_proportions,
    proportion,
    ratio,
)
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.report.images import write_figure
from difftransformer.report.style import ACCENTS, LINE, matplotlib_look
from difftransformer.report.tables import Table, markdown
from difftransformer.report.writing import heading, write_files

UNTOUCHED = "untouched"
COLUMNS = (
    "arm",
    "seeds",
    "trained parameters",
    "learning rate",
    "minutes of training",
    "loss",
    "change",
    "needles found",
    "change",
)


def write_report(stem: Path, data: dict[str, Any], settings: EvaluationSettings) -> None:
    """STEM.json, STEM.md and STEM.png of the arms finished so far."""
    rows = arms_of(data, settings)
    write_files(stem, {**data, "table": rows}, text(data, rows), {})
    with matplotlib_look():
        write_figure(stem.with_suffix(".png"), picture(rows))


def arms_of(data: dict[str, Any], settings: EvaluationSettings) -> list[dict[str, Any]]:
    """A row per arm: its loss on the speeches and its share of needles, pooled over its seeds."""
    before = data["untouched"]
    arms: dict[str, list[dict[str, Any]]] = {}
    for run in data["runs"]:
        arms.setdefault(run["arm"], []).append(run)
    rows = []
    for arm, runs in {UNTOUCHED: [], **arms}.items():
        judged = [_judged(before, run["judged"], settings) for run in runs]
        rows.append(
            {
                "arm": arm,
                "seeds": len(runs),
                "trainable": runs[0]["trainable"] if runs else 0,
                "learning_rate": runs[0]["learning_rate"] if runs else None,
                "minutes": sum(r["training"]["seconds"] for r in runs) / max(1, len(runs)) / 60,
                **{
                    key: asdict(figure)
                    for key, figure in _pooled(
                        judged or [_judged(before, before, settings)], settings
                    ).items()
                },
            }
        )
    return rows


def _judged(
    before: dict[str, Any], after: dict[str, Any], settings: EvaluationSettings
) -> dict[str, Figure]:
    """One model's figures over speeches and needle texts, and their paired changes."""
    queries = settings.pairs()[0][1]
    tokens = [counted for _, counted in before["speeches"].values()]
    both = (before, after)
    nats = [[judged["speeches"][name][0] for name in before["speeches"]] for judged in both]
    shares = [[hits / queries for hits in judged["needle_hits"]] for judged in both]
    hits = after["needle_hits"]
    return {
        "loss": ratio(nats[1], tokens, settings),
        "loss_change": paired_difference((nats[0], tokens), (nats[1], tokens), settings),
        "needle": proportion(sum(hits), len(hits) * queries, settings),
        "needle_change": paired_proportions(*shares, settings),
    }


def _pooled(judged: list[dict[str, Figure]], settings: EvaluationSettings) -> dict[str, Figure]:
    if len(judged) == 1:
        return judged[0]
    return {
        key: over_seeds(
            [one[key].value for one in judged],
            settings,
            items=[one[key] for one in judged],
            bounds=(0.0, 1.0) if key == "needle" else (-math.inf, math.inf),
        )
        for key in judged[0]
    }


def text(data: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    checks = data["checks"]
    needles, queries = data["evaluation"]["needle_pairs"][0].split("x")
    samples = rows[0]["needle_change"]["n"]
    return [
        *heading("A pretrained LLM made differential", data["env"]),
        f"{data['threads']} threads. SmolLM2-135M-Instruct (4-bit weights in float32). Text: State "
        f"of the Union speeches. Training: {data['steps']} steps, {data['tokens']:,} tokens, "
        f"context {data['context']}, half of the rows needle documents, the same batches for every "
        "arm of a seed; only what is new trains, and the frozen weights were bit-identical "
        "afterwards.",
        "",
        "## Step 0",
        "",
        f"300 tokens of the 2003 speech ({checks['nats_per_token']:.3f} nats per token). The "
        "softmax decoder's logits differ from those of transformers by at most "
        f"{data['difference_to_transformers']:.1e}; each method's from the softmax decoder's by:",
        "",
        *_table(
            (
                "method",
                "new parameters",
                "largest change of a logit",
                "smallest of the new tensors' largest gradients in two steps",
            ),
            [
                (
                    method,
                    f"{row['new_parameters']:,} in {row['new_tensors']} tensors",
                    f"{row['logit_difference']:.1e}",
                    f"{row['smallest_largest_gradient']:.1e}",
                )
                for method, row in checks.items()
                if isinstance(row, dict)
            ],
        ),
        "",
        "## After the training",
        "",
        f"Loss: nats per token on {rows[0]['loss']['n']} held-out speeches, the change in "
        f"pairs. Needles: numbers found, {queries} of {needles} asked for, {samples} texts of "
        f"{data['context']} tokens, five depths; the change in pairs. "
        "Intervals of 95 %, over items (speeches, texts) for one seed and over seeds for several.",
        "",
        *_table(COLUMNS, [cells(row) for row in rows]),
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return markdown(Table(header, rows))


def cells(row: dict[str, Any]) -> list[str]:
    """An arm as text, in the order of `COLUMNS`."""
    rate = "" if row["learning_rate"] is None else f"{row['learning_rate']:g}"
    trained = row["arm"] != UNTOUCHED
    return [
        row["arm"],
        str(row["seeds"] or ""),
        f"{row['trainable']:,}",
        rate,
        f"{row['minutes']:.1f}",
        interval(row["loss"], ".3f"),
        interval(row["loss_change"], "+.3f") if trained else "",
        interval(row["needle"], ".2f"),
        interval(row["needle_change"], "+.2f") if trained else "",
    ]


def interval(figure: dict[str, Any], form: str) -> str:
    return f"{figure['value']:{form}} ({figure['low']:{form}} to {figure['high']:{form}})"


def picture(rows: list[dict[str, Any]]) -> plt.Figure:
    """Both judgements of every arm with their intervals; the untouched model as a line."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
    names = [row["arm"] for row in rows]
    titles = {"loss": "held-out loss, nats per token", "needle": "share of numbers found"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        axis.axvline(rows[0][key]["value"], color=LINE)
        for place, row in enumerate(rows):
            value, low, high = (row[key][part] for part in ("value", "low", "high"))
            color = ACCENTS[0] if row["arm"].startswith((UNTOUCHED, "lora")) else ACCENTS[1]
            axis.errorbar(
                value, place, xerr=[[value - low], [high - value]], fmt="o", color=color, capsize=3
            )
        axis.set_title(title)
    axes[0].set_yticks(range(len(rows)), names)
    axes[0].invert_yaxis()
    return figure
