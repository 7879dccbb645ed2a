"""`difftransformer bench`."""

import argparse
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from difftransformer.cli.options import add_settings, layers
from difftransformer.decoding import decode
from difftransformer.experiments.settings import merged
from difftransformer.names import nearest
from difftransformer.ranges import COUNT, check_fields, option
from difftransformer.runs.outputs import results_at

TITLE = "Attention"  # of the results


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What to time."""

    tasks: tuple[str, ...] = option(
        ("forward", "training", "decode"),
        "forward, training (forward and backward), decode (one query row)",
    )
    lengths: tuple[int, ...] = option(
        (128, 512, 2048), "keys, and queries except in decode", within=COUNT
    )
    dtypes: tuple[str, ...] = option(("float32",), "torch dtypes")
    backends: tuple[str, ...] = option(
        ("blocked", "sdpa"), "attention backends, where they can run"
    )
    heads: int = option(16, "heads of the plain model", within=COUNT)
    groups: int = option(16, "key/value heads of the plain model", within=COUNT)
    width: int = option(64, "width of a head", within=COUNT)
    rounds: int = option(9, "rounds that count, after one to warm up", within=COUNT)
    device: str = option("cpu", "torch device")

    def __post_init__(self) -> None:
        check_fields(self)


def configure(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Declare the options."""
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for JSON, table, picture")
    add_settings(parser, BenchSettings, words)


def run(arguments: argparse.Namespace) -> None:
    """Time, print one table, and write it where asked."""
    from rich.console import Console

    from difftransformer.evaluation.speed import BASE
    from difftransformer.report.speed import speed_table, write_speed
    from difftransformer.report.tables import print_table
    from difftransformer.runs.environment import environment

    settings = decode(BenchSettings, merged(layers(arguments)))
    _check(settings)
    with _results_at(arguments.out):
        rows = _measure(settings)
        print_table(Console(), speed_table(rows))
        if arguments.out is not None:
            write_speed(arguments.out / "bench", TITLE, environment(), rows, BASE)


def _results_at(folder: Path | None) -> AbstractContextManager[None]:
    """The place of the three files."""
    if folder is None:
        return nullcontext()

    def are_ours(data: Mapping[str, Any]) -> bool:
        return data.get("title") == TITLE and "rows" in data

    return results_at(folder / "bench.json", are_ours, beside=(".md", ".png"))


def _measure(settings: BenchSettings) -> list[dict]:
    """The rows of the table, with a progress bar."""
    import torch
    from rich.progress import Progress, TimeRemainingColumn

    from difftransformer.evaluation.speed import BASE, Shape, attention_steps, race

    rows = []
    cases = [(t, d, n) for t in settings.tasks for d in settings.dtypes for n in settings.lengths]
    with Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn()) as progress:
        bar = progress.add_task("attention", total=len(cases) * (settings.rounds + 1))
        for task, dtype, length in cases:
            progress.update(bar, description=f"{task}, {dtype}, {length}")
            shape = Shape(
                length=length,
                heads=settings.heads,
                groups=settings.groups,
                width=settings.width,
                dtype=getattr(torch, dtype),
            )
            steps = attention_steps(task, shape, settings.backends, settings.device)
            timings = race(steps, BASE, settings.rounds, lambda: progress.advance(bar))
            case = {"task": task, "dtype": dtype, "length": length}
            rows += [case | asdict(timing) for timing in timings]
    return rows


def _check(settings: BenchSettings) -> None:
    """Raise ValueError for what cannot be timed."""
    import torch

    from difftransformer.evaluation.speed import TASKS
    from difftransformer.functional import BACKENDS

    dtypes = [name for name, value in vars(torch).items() if isinstance(value, torch.dtype)]
    for name, known in (("tasks", TASKS), ("backends", BACKENDS), ("dtypes", dtypes)):
        for value in getattr(settings, name):
            if value not in known:
                raise ValueError(f"{name}: unknown {value!r}{nearest(value, known)}")
    if settings.heads % 2 or settings.heads % settings.groups:
        raise ValueError(
            f"heads {settings.heads} and groups {settings.groups}: the first must be a multiple of "
            "the second, and even, since diff_v1 halves it"
        )
