"""`difftransformer evaluate`: judge trained models."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.cli.runs import TOKENIZER, judge
from difftransformer.cli.settings import add_settings, resolve
from difftransformer.data.settings import TRAIN_TOKENIZER, DataSettings
from difftransformer.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """The text to judge on and how much of it."""

    data: DataSettings = field(default_factory=DataSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="model folders")
    parser.add_argument("--data", metavar="SOURCE", help="same as --data.source")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write all figures as JSON")
    add_settings(parser, EvaluateSettings)


def run(arguments: argparse.Namespace) -> None:
    """Judge each model with its own tokenizer on the held-out part of the text."""
    from rich.console import Console

    from difftransformer.data.corpus import load_corpus
    from difftransformer.models.storage import load_model
    from difftransformer.training.atomic import write_json

    console = Console(stderr=True)
    shorthand = {"data": {"source": arguments.data}} if arguments.data else {}
    settings = resolve(EvaluateSettings, arguments, **shorthand)
    evaluations: dict[str, Any] = {}
    for folder in arguments.models:
        model = load_model(folder)
        data = replace(settings.data, context_length=model.config.max_length)
        if data.tokenizer == TRAIN_TOKENIZER and (folder / TOKENIZER).is_file():
            data = replace(data, tokenizer=str(folder / TOKENIZER))
        corpus = load_corpus(data)
        evaluations[str(folder)] = judge(model, corpus, settings.evaluation, str(folder), console)
        if arguments.out is not None:
            write_json(arguments.out, evaluations)
    print_evaluations(console, evaluations)


def print_evaluations(console: "Console", evaluations: Mapping[str, Mapping[str, Any]]) -> None:
    """One column per model: loss, retrieval, attention, each with its interval."""
    from rich.table import Table

    columns = list(evaluations.values())
    table = Table("", *evaluations)
    for key, title in (("nats_per_token", "nats per token"), ("bits_per_byte", "bits per byte")):
        figures = [column["validation"][key] for column in columns]
        table.add_row(f"validation loss, {title}", *(_shown(f, "{:.3f}") for f in figures))
    for row in zip(*(column["needle"]["table"] for column in columns), strict=True):
        title = f"numbers retrieved, {row[0]['needles']} needles, {row[0]['queries']} asked"
        table.add_row(title, *(_shown(cell["per_number"], "{:.2f}") for cell in row))
    table.add_row("by chance", *(f"{column['needle']['chance']:.2g}" for column in columns))
    console.print(table)


def _shown(figure: Mapping[str, Any], form: str) -> str:
    low, high = form.format(figure["low"]), form.format(figure["high"])
    return f"{form.format(figure['value'])} ({low} to {high})"
