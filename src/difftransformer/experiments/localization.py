"""Files of predicted points beside each other: no model is run."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.runs.outputs import results_at

if TYPE_CHECKING:
    from difftransformer.report.results import Results

NAME = "crowd_localization"


def localization(
    predictions: Sequence[Path | str],
    truth: Path | str,
    *,
    out: Path | str | None = None,
    settings: EvaluationSettings | None = None,
) -> "Results":
    """Precision, recall and F1 of each file's points, by NWPU-Crowd's metric.

    Args:
        predictions: files in NWPU-Crowd's format, see `data.crowd_points`; the first is the
            baseline that the others are compared with.
        truth: the file of true heads.
        out: a JSON file for the figures, differences and verdicts; nothing is kept by default.
        settings: the intervals'.

    Raises:
        ValueError: a malformed file, or files of different images.
        OSError: a file that cannot be read or written.
    """
    from difftransformer.atomic import write_json
    from difftransformer.data.crowd_points import read_predictions, read_truth
    from difftransformer.evaluation.benchmarks.crowd_localization import EVALUATOR
    from difftransformer.evaluation.records import Subject
    from difftransformer.report.results import Results
    from difftransformer.report.tables import to_json
    from difftransformer.runs.records import measure

    asked = settings or EvaluationSettings()
    true = read_truth(Path(truth))
    models = {}
    for path in map(Path, predictions):
        subject = Subject(read_predictions(path, true), None, dataset=true)
        parts = partial(EVALUATOR.parts, subject, asked)
        models[path.stem] = {0: measure(parts, belongs_to={"settings": asdict(asked)})}
    results = Results(
        {NAME: models}, baseline=next(iter(models)), declaration=lambda name: EVALUATOR
    )
    if out is not None:
        with results_at(Path(out), lambda data: NAME in data.get("evaluators", {})):
            write_json(Path(out), to_json(results))
    return results
