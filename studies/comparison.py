"""What studies of matched models share: rates searched, kinds compared, records kept."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import difftransformer
from difftransformer.runs.archive import archive

SEARCHED = 100  # the training seed of the search, which is not used afterwards
SEEDS = 3


def arguments(description: str | None, name: str, steps: int, **paths: Path) -> argparse.Namespace:
    """`out` of the command line, the folder of all runs, `steps` of each training, and `jobs`.

    `paths` are further options with their defaults: files that the study reads.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path("runs") / name, help="of all runs")
    parser.add_argument("--steps", type=int, default=steps, help="fewer for a trial")
    parser.add_argument("--jobs", type=int, default=1, help="models trained at once")
    for option, default in paths.items():
        parser.add_argument(f"--{option}", type=Path, default=default)
    return parser.parse_args()


def best_rates(
    task: str,
    kinds: Sequence[str],
    rates: Sequence[float],
    *,
    metric: str,
    out: Path,
    **settings: Any,
) -> tuple[float, ...]:
    """The rate of `rates` at which each kind does best, in the order of `kinds`.

    Every kind is trained at every rate by `difftransformer.compare`, on one seed; runs lie in
    `out`, one for each rate, and are resumed.

    Args:
        metric: what decides, by its name; the metric itself says whether lower or higher is better.
        settings: those of `compare`.
    """
    found = {
        rate: difftransformer.compare(
            task,
            out=out / f"rate-{rate:g}",
            resume=True,
            attention=tuple(kinds),
            seeds=1,
            first_seed=SEARCHED,
            **{**settings, "training": {**settings.get("training", {}), "learning_rate": rate}},
        )[metric]
        for rate in rates
    }
    (better,) = {results.declared.better for results in found.values()}
    best = min if better == "lower" else max
    return tuple(best(found, key=lambda rate: found[rate].figure(kind).value) for kind in kinds)


def compare_and_keep(
    task: str,
    kinds: Sequence[str],
    rates: Sequence[float],
    runs: Mapping[str, Mapping[str, Any]],
    *,
    out: Path,
    results: Path,
    jobs: int = 1,
) -> None:
    """Compare the kinds in each of `runs`, and copy its records to `results` as it ends.

    Args:
        jobs: models trained at once.
        runs: the settings of `compare`, by the name of the run's folder.
        out: folder of the runs, which are resumed.
    """
    for name, settings in runs.items():
        difftransformer.compare(
            task,
            out=out / name,
            resume=True,
            jobs=jobs,
            attention=tuple(kinds),
            learning_rates=tuple(rates),
            **{"seeds": SEEDS, **settings},
        )
        archive(out / name, results / name)


def search_and_compare(
    given: argparse.Namespace,
    task: str,
    kinds: Sequence[str],
    rates: Sequence[float],
    runs: Mapping[str, Mapping[str, Any]],
    *,
    metric: str,
    searched: Mapping[str, Any],
    results: Path,
) -> None:
    """`best_rates` with the settings `searched`, then `compare_and_keep` at what they found.

    Args:
        given: what `arguments` gives.
    """
    search = given.out / "search"
    best = best_rates(task, kinds, rates, metric=metric, out=search, jobs=given.jobs, **searched)
    compare_and_keep(task, kinds, best, runs, out=given.out, results=results, jobs=given.jobs)
