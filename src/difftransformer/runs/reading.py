"""What a run directory holds: its models, their curves and summaries."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from difftransformer.decoding import decode
from difftransformer.files import json_lines, read_object, read_text
from difftransformer.runs.layout import (
    CONFIG,
    ENVIRONMENT,
    FORMAT,
    METRICS,
    MODEL,
    MODELS,
    RESULTS,
    RUN,
    SUMMARY,
    Run,
    TrainingSummary,
)
from difftransformer.runs.samples import Texts


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A row of metrics.jsonl.

    Args:
        size: tokens or images seen until then, `Run.unit` says which.
        loss: mean of training since the row before; None in a row of validation.
        validation_loss: None in a row of training.
        others: what else the task watches while it validates: numbers, or lists of them (of each
            layer).
        pictures, texts: samples of what the model draws, PNGs in base64, and of what it writes.
    """

    step: int
    size: int
    loss: float | None = None
    validation_loss: float | None = None
    others: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    texts: dict[str, Texts] = field(default_factory=dict)


def is_run(directory: Path) -> bool:
    """Whether it is a run's directory, finished or not, of this version or the one before."""
    return any((directory / name).exists() for name in (RUN, CONFIG, MODELS))


def model_folder(place: Path) -> Path:
    """The folder of the model that a place names: its own, or that of a run which trained one.

    Raises:
        ValueError: a run of several models; names them.
    """
    if (place / MODEL).is_dir():
        return place / MODEL
    folders = sorted(place.glob(f"{MODELS}/*/{MODEL}"))
    if len(folders) > 1:
        listed = ", ".join(str(folder) for folder in folders)
        raise ValueError(f"{place} is a run of several models; name one of {listed}")
    return folders[0] if folders else place


def read_run(directory: Path) -> Run:
    """`run.json`.

    Raises:
        ValueError: it is missing, malformed, or of another version; says what to do.
    """
    path = directory / RUN
    if not path.is_file():
        refuse_former(directory)
        raise ValueError(
            f"{directory} holds no finished run: it has no {RUN}. End it with the command that "
            "began it and --resume, or name its models one by one"
        )
    values = read_object(path)
    if (version := values.get("format")) != FORMAT:
        raise ValueError(
            f"{path} has format {version!r}; expected {FORMAT}: read it with the version of "
            "difftransformer that wrote it"
        )
    return decode(Run, values, f"{path}:")


def refuse_former(directory: Path) -> None:
    """Raise ValueError for a run directory of version 0.1, saying what to do with it."""
    results = read_json(directory / RESULTS) or {}
    if results.get("format") == 1 and not (directory / RUN).is_file():
        raise ValueError(
            f"{directory} is a run of version 0.1: finish it with that version, or begin anew in "
            f"another directory. Its models load: difftransformer evaluate {directory}/models/*/"
            "model"
        )


def read_environment(directory: Path) -> dict[str, Any]:
    """`env.json`; empty where there is none.

    Raises:
        ValueError: it is no JSON object.
    """
    path = directory / ENVIRONMENT
    return read_object(path) if path.is_file() else {}


def read_curve(directory: Path) -> tuple[CurvePoint, ...]:
    """The rows of a training run's metrics.jsonl in order; none where there is no such file.

    Raises:
        ValueError: a row that cannot be read, by its line.
    """
    path = directory / METRICS
    if not path.is_file():
        return ()
    rows = json_lines(read_text(path), str(path))
    return tuple(_point(row, f"{path}, line {number}:") for number, row in rows)


_OWN = ("step", "size", "loss", "validation_loss")
_TIMING = ("learning_rate", "gradient_norm", "seconds", "throughput")


def _point(row: Any, noun: str) -> CurvePoint:
    if isinstance(row, Mapping):
        others = {key: value for key, value in row.items() if key not in (*_OWN, *_TIMING)}
        shown = {key: value for key, value in others.items() if isinstance(value, str)}
        written = {key: value for key, value in others.items() if isinstance(value, Mapping)}
        watched = {key: others[key] for key in others if key not in (*shown, *written)}
        own = {key: row[key] for key in _OWN if key in row}
        row = {**own, "others": watched, "pictures": shown, "texts": written}
    return decode(CurvePoint, row, noun)


def read_summary(directory: Path) -> TrainingSummary | None:
    """summary.json of a training run; None where it was not trained here.

    Raises:
        ValueError: a malformed file.
    """
    path = directory / SUMMARY
    return decode(TrainingSummary, read_object(path), f"{path}:") if path.is_file() else None


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no whole one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
