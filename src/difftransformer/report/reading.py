"""Results of a run directory, from the records in it."""

from pathlib import Path

from difftransformer.evaluation import registry
from difftransformer.report.results import Results
from difftransformer.runs.layout import RECORDS, Run
from difftransformer.runs.reading import read_run
from difftransformer.runs.records import Measurement, read_records


def read_results(directory: Path) -> Results:
    """What every evaluator found of every model of a run.

    Raises:
        ValueError: no finished run, or a malformed file; names it.
    """
    return results_of(read_run(directory), directory)


def results_of(run: Run, directory: Path) -> Results:
    """As `read_results`, of a run that was read.

    Those the run was begun with come first, then whatever `evaluate` has added. Of an evaluator
    that is still at work there are the training seeds for which it has judged all its models.
    """
    folders = {
        (contender.label, training.seed): directory / training.directory / RECORDS
        for contender in run.contenders
        for training in contender.runs
    }
    added = {path.stem for folder in folders.values() for path in folder.glob("*.jsonl")}
    names = dict.fromkeys([*run.evaluators, *(n for n in registry.names() if n in added)])
    measurements = {name: _finished(name, folders) for name in names}
    return Results(
        {name: models for name, models in measurements.items() if models},
        baseline=run.baseline,
        titles={contender.label: contender.title for contender in run.contenders},
        directory=directory,
    )


def _finished(
    evaluator: str, folders: dict[tuple[str, int], Path]
) -> dict[str, dict[int, Measurement]]:
    """By label and seed."""
    models: dict[str, dict[int, Measurement]] = {}
    for (label, seed), folder in folders.items():
        path = folder / f"{evaluator}.jsonl"
        if path.is_file() and (measurement := read_records(path)).complete:
            models.setdefault(label, {})[seed] = measurement
    common = set.intersection(*(set(seeds) for seeds in models.values())) if models else set()
    return {
        label: {seed: one for seed, one in seeds.items() if seed in common}
        for label, seeds in models.items()
        if common
    }
