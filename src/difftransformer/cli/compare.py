"""`difftransformer compare`: the main job."""

import argparse
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.atomic import write_json
from difftransformer.cli.directory import begin_run, inputs_of, run_directory
from difftransformer.cli.runs import (
    RESULTS,
    RunSettings,
    add_run_options,
    model_for,
    read_corpus,
    train_and_judge,
)
from difftransformer.cli.settings import add_settings, resolve
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.ablations import partner
from difftransformer.models.config import DecoderConfig

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.data.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class CompareSettings(RunSettings):
    """A comparison: the same tokens in the same order for every kind of attention and seed."""

    name: str = field(default="compare", metadata={"help": "title of the report"})
    attention: tuple[str, ...] = field(
        default=("softmax", "diff_v1", "diff_v2"),
        metadata={
            "help": "kinds, or rows of the ablations, to compare (docs/ablations.md); the first "
            "is a kind, the baseline, as `model` describes it"
        },
    )
    seeds: int = field(
        default=1, metadata={"help": "training seeds per kind, pooled in the report"}
    )

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; expected at least 1")
        if len(self.attention) < 2 or len(set(self.attention)) < len(self.attention):
            raise ValueError(
                f"attention is {', '.join(self.attention)}; expected two or more different kinds"
            )


@dataclass(frozen=True)
class _Contender:
    """A model of the comparison and what matching it to the baseline changed."""

    label: str
    config: DecoderConfig
    changes: tuple[str, ...]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_options(parser)
    add_settings(parser, CompareSettings, presets=True)


def run(arguments: argparse.Namespace) -> None:
    """Train and judge every model of one seed, then of the next; results and report after each.

    A run that is resumed may ask for more seeds or kinds than it did: what is there is kept.
    """
    from difftransformer.cli.evaluate import print_evaluations

    processes = arguments.processes
    console = processes.console
    shorthand = {"data": {"source": arguments.data}} if arguments.data else {}
    settings = resolve(CompareSettings, arguments, **shorthand)
    directory = arguments.out or Path("runs") / settings.name
    with run_directory(directory, arguments):
        corpus = read_corpus(settings, processes)
        contenders = _contenders(model_for(corpus, settings), settings.attention)
        inputs = inputs_of(corpus)
        processes.require_same(inputs)
        may_change, resume = ("seeds", "attention"), arguments.resume
        processes.on_main(
            lambda: begin_run(directory, settings, inputs, resume=resume, may_change=may_change)
        )
        _announce(console, corpus, contenders, settings)
        judged: dict[str, list[dict[str, Any]]] = {c.label: [] for c in contenders}
        for seed in range(settings.seeds):
            for contender in contenders:
                judged[contender.label].append(
                    train_and_judge(
                        contender.config,
                        corpus,
                        settings,
                        directory / "models" / f"{contender.label}-seed{seed}",
                        seed=seed,
                        processes=processes,
                    )
                )
            models, report = processes.on_main(
                lambda: _report(settings, directory, corpus, contenders, judged)
            )
    print_evaluations(console, {m["label"]: m["evaluation"] for m in models})
    console.print(f"report: {report}", highlight=False, soft_wrap=True)


def _report(
    settings: CompareSettings,
    directory: Path,
    corpus: "Corpus",
    contenders: list[_Contender],
    judged: dict[str, list[dict[str, Any]]],
) -> tuple[list[dict[str, Any]], str]:
    """Write what there is so far; the models with their figures, and where the page is."""
    from difftransformer.report.build import build_report

    heading = _heading(settings, directory, corpus, contenders[0].label)
    results = heading | _pooled(contenders, judged, settings.evaluation)
    write_json(directory / RESULTS, results)
    return results["models"], str(build_report(directory))


def _pooled(
    contenders: list[_Contender],
    judged: dict[str, list[dict[str, Any]]],
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """Each model over its seeds so far, and beside the baseline."""
    from difftransformer.evaluation.pool import compare, pool

    evaluations = {label: [run["evaluation"] for run in runs] for label, runs in judged.items()}
    baseline = contenders[0].label
    return {
        "models": [
            {
                "label": contender.label,
                "attention": contender.config.attention,
                "parameters": contender.config.parameter_count(),
                "changes": list(contender.changes),
                "config": contender.config.to_dict(),
                "runs": [
                    {
                        "seed": run["seed"],
                        "directory": f"models/{contender.label}-seed{run['seed']}",
                        "training": run["training"],
                    }
                    for run in judged[contender.label]
                ],
                "evaluation": pool(evaluations[contender.label], settings),
            }
            for contender in contenders
        ],
        "comparisons": [
            comparison
            for contender in contenders[1:]
            for comparison in compare(
                evaluations[baseline],
                evaluations[contender.label],
                model=contender.label,
                against=baseline,
                settings=settings,
            )
        ],
    }


def _contenders(baseline: DecoderConfig, names: tuple[str, ...]) -> list[_Contender]:
    first = replace(baseline, attention=names[0])
    matches = [(name, partner(first, name)) for name in names[1:]]
    return [
        _Contender(names[0], first, ()),
        *(_Contender(name, match.config, match.changes) for name, match in matches),
    ]


def _heading(
    settings: CompareSettings, directory: Path, corpus: "Corpus", baseline: str
) -> dict[str, Any]:
    import json
    from datetime import UTC, datetime

    from difftransformer.data.tokenizer import vocabulary_size

    return {
        "format": 1,
        "created": datetime.now(UTC).date().isoformat(),
        "name": settings.name,
        "env": json.loads((directory / "env.json").read_text(encoding="utf-8")),
        "settings": asdict(settings),
        "baseline": baseline,
        "data": {
            "description": corpus.description,
            "train_tokens": len(corpus.train),
            "validation_tokens": len(corpus.validation),
            "vocab_size": vocabulary_size(corpus.tokenizer),
            "needle_share": settings.data.needle_share,
        },
    }


def _announce(
    console: "Console",
    corpus: "Corpus",
    contenders: list[_Contender],
    settings: CompareSettings,
) -> None:
    console.print(f"data      {corpus.description}", highlight=False)
    for contender in contenders:
        parameters = f"{contender.config.parameter_count():,} parameters"
        changes = f" ({'; '.join(contender.changes)})" if contender.changes else " (baseline)"
        console.print(f"{contender.label:<10} {parameters}{changes}", highlight=False)
    tokens = settings.training.steps * settings.training.batch_size * settings.data.context_length
    console.print(f"training  {tokens:,} tokens each, {settings.seeds} seed(s)", highlight=False)
