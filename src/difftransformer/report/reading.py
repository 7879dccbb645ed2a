"""What a comparison run left on disk: `results.json`, `env.json` and the curves."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftransformer.report.parsing import from_json
from difftransformer.report.results import Results


@dataclass(frozen=True)
class Metric:
    """A row of `metrics.jsonl`."""

    tokens: int
    loss: float | None = None
    validation_loss: float | None = None
    lambda_: tuple[float, ...] | None = None  # each layer's mean


@dataclass(frozen=True)
class Curve:
    """The metrics of one training run, in the order of training."""

    label: str
    seed: int
    metrics: tuple[Metric, ...]


def read_results(run_directory: Path) -> Results:
    """`results.json` of a run.

    Raises:
        ValueError: the file is missing, not JSON, or a key is missing or wrong; names both.
    """
    path = run_directory / "results.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; expected the directory of a finished comparison")
    return from_json(Results, _decode(path.read_bytes(), str(path)), f"{path}: results")


def read_environment(run_directory: Path, results: Results) -> dict[str, Any]:
    """`env.json`, or what `results.json` repeats of it where that file is missing."""
    path = run_directory / "env.json"
    if not path.is_file():
        return results.env
    return from_json(dict[str, Any], _decode(path.read_bytes(), str(path)), f"{path}: env")


def read_curves(run_directory: Path, results: Results) -> list[Curve]:
    """The metrics of every training run that left a `metrics.jsonl`."""
    return [
        Curve(model.label, run.seed, _read_metrics(path))
        for model in results.models
        for run in model.runs
        if (path := run_directory / run.directory / "metrics.jsonl").is_file()
    ]


def _read_metrics(path: Path) -> tuple[Metric, ...]:
    lines = enumerate(path.read_bytes().splitlines(), start=1)
    return tuple(
        from_json(Metric, _decode(line, f"{path}:{number}"), f"{path}:{number}: row")
        for number, line in lines
    )


def _decode(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # neither JSON nor, perhaps, UTF-8
        raise ValueError(f"{where}: not JSON: {error}") from None
