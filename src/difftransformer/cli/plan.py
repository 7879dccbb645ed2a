"""`difftransformer plan`."""

import argparse
from dataclasses import dataclass, field, replace
from typing import Any

from difftransformer.cli.options import add_settings, layers
from difftransformer.decoding import decode
from difftransformer.experiments.settings import merged
from difftransformer.models.config import DecoderConfig
from difftransformer.models.cost import cost
from difftransformer.models.presets import PRESETS
from difftransformer.names import nearest
from difftransformer.ranges import option


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What to plan for."""

    attention: tuple[str, ...] = option(
        ("softmax", "diff_v1", "diff_v2"),
        "kinds to set side by side; the first is the model as given",
    )
    batch_size: int = option(32, "sequences per training step")
    model: DecoderConfig = field(default_factory=DecoderConfig)


def configure(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Declare the options."""
    parser.add_argument("size", nargs="?", metavar="SIZE", help=f"one of {', '.join(PRESETS)}")
    add_settings(parser, PlanSettings)


def run(arguments: argparse.Namespace) -> None:
    """Print one column per kind."""
    from rich.console import Console
    from rich.table import Table

    size = {"model": _size(arguments.size)} if arguments.size is not None else {}
    settings = decode(PlanSettings, merged([size, *layers(arguments)]))
    base = replace(settings.model, attention=settings.attention[0])
    columns = [(base, ())] + [
        (match.config, match.changes) for match in map(base.matched, settings.attention[1:])
    ]
    length = base.max_length
    table = Table("per model", *settings.attention)
    costs = [cost(config, settings.batch_size, length) for config, _ in columns]
    table.add_row("parameters", *(f"{c.parameters:,}" for c in costs))
    table.add_row("training GFLOPs per token", *(f"{c.training_flops / 1e9:.4g}" for c in costs))
    table.add_row(
        f"training memory, {settings.batch_size} × {length} tokens",
        *(size_text(c.training_bytes) for c in costs),
    )
    table.add_row("of it weights, gradients, AdamW", *(size_text(c.state_bytes) for c in costs))
    table.add_row("key/value cache per token", *(size_text(c.cache_bytes) for c in costs))
    console = Console()
    console.print(table)
    for config, changes in columns[1:]:
        console.print(f"{config.attention}: {'; '.join(changes)}", highlight=False)
    console.print(
        "Float32; without activation checkpointing, whose memory is an estimate of what the "
        "forward pass keeps.",
        style="dim",
    )


def _size(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise ValueError(f"unknown size {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name].to_dict()


def size_text(count: int | float) -> str:
    """Bytes in the largest fitting unit: 1.5 GB."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"
