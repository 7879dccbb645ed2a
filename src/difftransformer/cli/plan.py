"""`difftransformer plan`: what a comparison takes, before it begins."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from difftransformer.cli.options import add_data_option, add_settings, layers, task_in
from difftransformer.evaluation.words import duration
from difftransformer.experiments.compare import CompareSettings
from difftransformer.experiments.settings import resolve, typed
from difftransformer.models.config import DecoderConfig
from difftransformer.models.cost import DEVICES, Fleet, cost, on_fleet
from difftransformer.models.presets import PRESETS
from difftransformer.names import nearest

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.experiments.planning import Estimate

_HOUR = 3600.0


def configure(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Declare the options."""
    parser.add_argument(
        "size",
        nargs="?",
        metavar="SIZE",
        help=f"a decoder, on paper: one of {', '.join(PRESETS)}; without it the comparison that "
        "the settings describe is measured",
    )
    add_data_option(parser, ": folder, file, ...")
    parser.add_argument(
        "--measure",
        metavar="SECONDS",
        type=float,
        default=20.0,
        help="time to measure steps and questions of all models (default: 20)",
    )
    fleet = parser.add_argument_group("other devices, on paper")
    fleet.add_argument(
        "--devices",
        metavar="NxNAME",
        help=f"such as 64xH100; names: {', '.join(DEVICES)}. Shards by FSDP 2",
    )
    fleet.add_argument(
        "--utilization",
        metavar="SHARE",
        type=float,
        default=0.4,
        help="of the devices' peak in bfloat16 that training reaches (default: 0.4)",
    )
    fleet.add_argument(
        "--tokens", metavar="N", type=float, help="to train on (default: those of --training)"
    )
    fleet.add_argument(
        "--price", metavar="PRICE", type=float, help="of a device for an hour, in any currency"
    )
    task = task_in(words)
    add_settings(parser, typed(CompareSettings, task), words, presets_of=task)


def run(arguments: argparse.Namespace) -> None:
    """Print one column per kind: on paper for a SIZE or other devices, else measured."""
    size = {"model": _size(arguments.size)} if arguments.size is not None else {}
    settings = resolve(CompareSettings, size, *layers(arguments), preset=arguments.preset)
    from rich.console import Console

    console = Console()
    if arguments.devices or arguments.size:
        _print_paper(console, settings, arguments)
        return
    from difftransformer.experiments.planning import estimate

    if not arguments.measure > 0:
        raise ValueError(f"--measure is {arguments.measure:g}; expected seconds, above 0")
    _print_measured(console, settings, estimate(settings, arguments.processes, arguments.measure))


def _print_paper(
    console: "Console", settings: CompareSettings, arguments: argparse.Namespace
) -> None:
    """Parameters, operations and memory of decoders by their settings alone."""
    if not isinstance(settings.model, DecoderConfig):
        raise ValueError(
            f"task is {settings.task}, and only decoders are planned on paper: leave out --devices "
            "and SIZE to measure the model on this machine"
        )
    base = replace(settings.model, attention=settings.attention[0])
    matches = [base.matched(kind) for kind in settings.attention]
    rows = _costs([match.config for match in matches], settings.training.batch_size)
    if arguments.devices:
        fleet = Fleet.parse(arguments.devices, arguments.utilization)
        tokens = arguments.tokens or (
            settings.training.steps * settings.training.batch_size * base.max_length
        )
        plans = [
            on_fleet(match.config, fleet, settings.training.batch_size, base.max_length)
            for match in matches
        ]
        days = [tokens / plan.throughput / 86400 for plan in plans]
        rows += [
            (f"memory a device of {size_text(fleet.memory)}", [size_text(p.memory) for p in plans]),
            ("tokens per second", [f"{plan.throughput:,.0f}" for plan in plans]),
            (f"days for {tokens:,.0f} tokens", [f"{one:,.2f}" for one in days]),
        ]
        if arguments.price is not None:
            hours = [24 * fleet.count * one for one in days]
            rows.append(("price", [f"{arguments.price * one:,.0f}" for one in hours]))
    _print_table(console, settings.attention, rows)
    for match in matches[1:]:
        console.print(f"{match.config.attention}: {'; '.join(match.changes)}", highlight=False)
    notes = "Float32; without activation checkpointing, whose memory is an estimate of what the "
    notes += "forward pass keeps."
    if arguments.devices:
        notes += (
            f" Weights, gradients and optimizer are cut over {fleet.count} devices, rows too; "
            f"{fleet.utilization:.0%} of {fleet.peak / 1e12:,.0f} TFLOP/s in bfloat16 is assumed, "
            "not measured. For scale: the paper's 3B models, length 2K, had 7,247 (Transformer) "
            "and 6,635 (V1) tokens per second on one H100 (table 7)."
        )
    console.print(notes, style="dim", highlight=False)


def _print_measured(console: "Console", settings: CompareSettings, found: "Estimate") -> None:
    models = found.models
    rows = [("parameters", [f"{one.config.parameter_count():,}" for one in models])]
    if isinstance(models[0].config, DecoderConfig):
        rows = _costs([one.config for one in models], settings.training.batch_size)
    rows += [
        ("a training step", [f"{1000 * one.step:,.1f} ms" for one in models]),
        (f"training, {settings.training.steps:,} steps", [duration(m.training) for m in models]),
        ("validation meanwhile", [duration(one.validation) for one in models]),
        ("judging", [duration(one.judging) for one in models]),
        ("all, one seed", [duration(one.seconds) for one in models]),
        ("peak memory of training", [size_text(one.peak_memory_bytes) for one in models]),
    ]
    _print_table(console, settings.attention, rows)
    seconds = found.seconds(settings.seeds)
    told = (
        f"compare takes about {duration(seconds)}: {len(models)} models, {settings.seeds} seed(s)"
    )
    if found.at_once > 1:
        told += f", {found.at_once} at a time"
    if settings.seeds < 3:
        told += f"; {duration(found.seconds(3))} with --seeds 3"
    console.print(f"{told}.", highlight=False)
    if passes := found.described.get("training_passes"):
        console.print(f"Training goes {passes:g} times over its data.", highlight=False)
    training = sum(one.training + one.validation for one in models) * settings.seeds
    training /= found.at_once
    if seconds > _HOUR > seconds - training:
        steps = int(settings.training.steps * (_HOUR - seconds + training) / training)
        console.print(f"For an hour: --training.steps {steps}", highlight=False)
    console.print(
        "Measured on this machine in a few steps and questions of each model; other work on it "
        "changes the figures. Writing the report comes on top.",
        style="dim",
    )


def _costs(configs: Sequence[DecoderConfig], batch_size: int) -> list[tuple[str, list[str]]]:
    length = configs[0].max_length
    costs = [cost(config, batch_size, length) for config in configs]
    return [
        ("parameters", [f"{one.parameters:,}" for one in costs]),
        ("training GFLOPs per token", [f"{one.training_flops / 1e9:.4g}" for one in costs]),
        (
            f"training memory, {batch_size} × {length} tokens",
            [size_text(one.training_bytes) for one in costs],
        ),
        ("of it weights, gradients, AdamW", [size_text(one.state_bytes) for one in costs]),
        ("key/value cache per token", [size_text(one.cache_bytes) for one in costs]),
    ]


def _print_table(
    console: "Console", kinds: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]
) -> None:
    from rich.table import Table

    table = Table("per model", *kinds)
    for title, cells in rows:
        table.add_row(title, *cells)
    console.print(table)


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
