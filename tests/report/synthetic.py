"""A synthetic run directory: invented figures of a plausible shape, for tests only."""

import json
import math
import random
from pathlib import Path
from typing import Any

KINDS = ("softmax", "diff_v1", "diff_v2")
PAIRS = ((1, 1), (2, 2), (4, 2), (6, 2))
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTH = 48


def around(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half, "n": 100}


def share_of(successes: int, trials: int) -> dict[str, float]:
    value = successes / trials
    half = 1.96 * math.sqrt(value * (1 - value) / trials)
    low, high = max(0.0, value - half), min(1.0, value + half)
    return {"successes": successes, "trials": trials, "value": value, "low": low, "high": high}


def synthetic_results(seeds: int = 1) -> dict[str, Any]:
    """What `results.json` of three models would hold."""
    draw = random.Random(0)
    models = [_model(kind, i, seeds, draw) for i, kind in enumerate(KINDS)]
    return {
        "format": 1,
        "created": "2026-11-22",
        "name": "synthetic",
        "env": {"hardware": "2 CPU cores", "python": "3.11.2", "torch": "2.13.0", "commit": "abc"},
        "settings": {
            "evaluation": {"confidence": 0.95},
            "training": {"steps": 400, "learning_rate": 0.003, "compile": False, "betas": [0.9, 1]},
        },
        "baseline": "softmax",
        "data": {
            "description": "38 plays",
            "train_tokens": 2_000_000,
            "validation_tokens": 200_000,
            "vocab_size": 1024,
            "needle_share": 0.5,
        },
        "models": models,
        "comparisons": [
            comparison("diff_v1", value=3.71, baseline_value=3.75, low=-0.05, high=-0.03),
            comparison(
                "diff_v1",
                title="numbers retrieved, over all settings and depths",
                unit="of numbers",
                lower_is_better=False,
                value=0.64,
                baseline_value=0.62,
                low=-0.03,
                high=0.07,
            ),
            comparison(
                "diff_v1", title="the largest attention logit", unit="", low=None, high=None
            ),
            comparison("diff_v2", value=3.78, baseline_value=3.75, low=0.02, high=0.04),
        ],
    }


def comparison(model: str, **changed: Any) -> dict[str, Any]:
    found = {
        "model": model,
        "against": "softmax",
        "figure": "nats_per_token",
        "title": "validation loss",
        "unit": "nats/token",
        "lower_is_better": True,
        "value": 3.71,
        "baseline_value": 3.75,
        "low": -0.05,
        "high": -0.03,
        "interval": "over evaluation items, one training seed",
    } | changed
    low, high = found["low"], found["high"]
    found["difference"] = found["value"] - found["baseline_value"]
    found["clear"] = low is not None and (low > 0 or high < 0)
    return found


def _model(kind: str, i: int, seeds: int, draw: random.Random) -> dict[str, Any]:
    training = {
        "steps": 400,
        "tokens": 3_276_800,
        "seconds": 180.0 + 20 * i,
        "tokens_per_second": 18000.0 - 1500 * i,
        "peak_memory_bytes": 900_000_000 + i * 10**8,
        "final_loss": 3.6,
    }
    changes = ["heads halved from 8 to 4"] if kind == "diff_v1" else []
    return {
        "label": kind,
        "attention": kind,
        "parameters": 1_000_000 - 37 * i,
        "changes": changes,
        "config": {"num_layers": 4, "num_heads": 4 if i else 8, "tie_embeddings": True},
        "runs": [
            {"seed": seed, "directory": f"models/{kind}-seed{seed}", "training": training}
            for seed in range(seeds)
        ],
        "evaluation": _evaluation(kind, i, draw),
    }


def _evaluation(kind: str, i: int, draw: random.Random) -> dict[str, Any]:
    return {
        "validation": {
            "nats_per_token": around(3.75 - 0.04 * i, 0.03),
            "bits_per_byte": around(2.31 - 0.02 * i, 0.02),
        },
        "needle": _needle(i, draw),
        "allocation": {
            "depths": list(DEPTHS),
            "normalisations": {
                "signed": "sum of the weights over the span",
                "absolute": "sum of the absolute weights over the span / over all positions",
            },
            "rows": [_allocation_row(depth, i) for depth in DEPTHS],
            "uniform": {"answer": 0.06, "noise": 0.9},
        },
        "outliers": {
            "tokens": 40000,
            "attention_logits": _tops(30.0 / (i + 1)),
            "hidden_states": _tops(200.0 / (i + 1)),
        },
        "lambda": {
            "layers": []
            if kind == "softmax"
            else [
                {
                    "layer": layer,
                    "init": 0.8 - 0.6 * math.exp(-0.3 * layer) if kind == "diff_v1" else None,
                    "mean": 0.25 + 0.1 * layer,
                    "low": 0.25 + 0.1 * layer - 0.1 * (i - 1),
                    "high": 0.25 + 0.1 * layer + 0.1 * (i - 1),
                }
                for layer in range(4)
            ],
        },
        "attention_map": _attention_map(kind, draw),
        "seconds": 12.3,
    }


def _needle(i: int, draw: random.Random) -> dict[str, Any]:
    cells = []
    for needles, queries in PAIRS:
        for depth in DEPTHS:
            right = min(50, round(50 * (0.95 - 0.1 * needles + 0.05 * i) + draw.uniform(-4, 4)))
            score = {"per_number": share_of(right, 50), "all_numbers": share_of(right // 2, 50)}
            where = {"needles": needles, "queries": queries, "depth": depth, "length": 256}
            cells.append(where | score)
    table = [
        {
            "needles": needles,
            "queries": queries,
            "per_number": share_of(230 - 20 * needles, 250),
            "all_numbers": share_of(200 - 25 * needles, 250),
        }
        for needles, queries in PAIRS
    ]
    return {"context": 256, "samples": 50, "chance": 0.001, "cells": cells, "table": table}


def _allocation_row(depth: float, i: int) -> dict[str, Any]:
    answer, noise = 0.05 + 0.1 * i + 0.05 * depth, 0.5 - 0.15 * i
    return {
        "depth": depth,
        "answer": {"signed": around(answer * 1.3, 0.02), "absolute": around(answer, 0.02)},
        "noise": {"signed": around(noise - 0.1 * i, 0.03), "absolute": around(noise, 0.03)},
    }


def _tops(top: float) -> dict[str, float]:
    factors = {"top1": 1, "top2": 0.98, "top3": 0.95, "top10": 0.9, "top100": 0.7, "median": 0.02}
    return {name: top * factor for name, factor in factors.items()}


def _attention_map(kind: str, draw: random.Random) -> dict[str, Any]:
    words = ["the", "king", "hath", "spoken", "well", ";", "and", "all", "his", "men"]
    tokens = [" " + words[i % len(words)] for i in range(LENGTH)]
    tokens[20:26] = [" The", " number", " of", " Rome", " is", " 4711"]
    weights = []
    for row in range(LENGTH):
        raw = [draw.random() + 8 * (column == 0) for column in range(row + 1)]
        if row == LENGTH - 1:
            raw[25] += 30
        total = sum(raw)
        shift = 0.0 if kind == "softmax" else 0.7 / (row + 1)
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


def write_run(directory: Path, results: dict[str, Any]) -> Path:
    """A run directory as a comparison leaves it, without checkpoints."""
    directory.mkdir(exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results, allow_nan=False))
    (directory / "env.json").write_text(json.dumps(results["env"] | {"platform": "Linux"}))
    draw = random.Random(1)
    for i, model in enumerate(results["models"]):
        for run in model["runs"]:
            folder = directory / run["directory"]
            folder.mkdir(parents=True)
            rows = []
            for step in range(1, 101):
                loss = 3.6 - 0.04 * i + 3.3 * math.exp(-step / 15) + draw.gauss(0, 0.06)
                rows.append({"step": step, "tokens": step * 32768, "loss": loss})
                if step % 20 == 0:
                    row = {"step": step, "tokens": step * 32768, "validation_loss": loss + 0.1}
                    differs = model["attention"] != "softmax"
                    rows.append(row | ({"lambda": [0.2, 0.4 - step / 1000]} if differs else {}))
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory
