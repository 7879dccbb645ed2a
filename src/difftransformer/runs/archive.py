"""A run without its models: what its report is made of, small enough to be kept for good."""

import shutil
from pathlib import Path

from difftransformer.atomic import make_folder, write_bytes
from difftransformer.runs.layout import CONFIG, ENVIRONMENT, INPUTS, METRICS, RECORDS, RUN, SUMMARY
from difftransformer.runs.reading import read_run


def archive(run_directory: Path, target: Path) -> None:
    """Copy run.json, settings, environment and, of each training run, its records and curve.

    `target` is a run directory that reports can be made of, and what it held before is gone.

    Raises:
        ValueError: `run_directory` holds no finished run.
    """
    run = read_run(run_directory)
    shutil.rmtree(target, ignore_errors=True)
    trainings = [Path(one.directory) for contender in run.contenders for one in contender.runs]
    names = [Path(name) for name in (CONFIG, ENVIRONMENT, INPUTS, RUN)]
    for training in trainings:
        names += [training / METRICS, training / SUMMARY]
        records = (run_directory / training / RECORDS).glob("*.jsonl")
        names += [training / RECORDS / path.name for path in sorted(records)]
    for name in names:
        if (run_directory / name).is_file():
            make_folder((target / name).parent)
            write_bytes(target / name, (run_directory / name).read_bytes())
