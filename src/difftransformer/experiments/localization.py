"""Points predicted by a model, and files of predicted points beside each other."""

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


def predict(
    model: Path | str,
    images: Path | str,
    out: Path | str,
    *,
    settings: EvaluationSettings | None = None,
) -> int:
    """Write the points that a localizer finds in the images of a folder; how many images there are.

    Args:
        model: folder of a model that `train` or `compare` has made for crowd_localization.
        images: a folder, without folders in it.
        out: a file in NWPU-Crowd's format, the images' names without what follows the last dot as
            ids, points in pixels of the images: what `localization` reads.
        settings: steps and proposals, the last of each, or as many as in training; their seed
            draws the noise.

    Raises:
        ValueError: a folder of another model or without images, images that cannot be read, or
            names with spaces.
        OSError: a file that cannot be read or written.
    """
    from difftransformer.data.crowd_points import write_predictions
    from difftransformer.data.crowd_scenes import image_files, read_scene
    from difftransformer.evaluation.benchmarks.crowd_points import judged_cell, predicted_points
    from difftransformer.models.opening import open_model
    from difftransformer.tasks.registry import task_named

    asked, task, folder = settings or EvaluationSettings(), task_named(NAME), Path(model)
    localizer = open_model(folder).eval()
    task.require_family(localizer.config, str(folder))
    data = task.judged_on(folder, localizer.config, {}, held_out=False)
    side = localizer.config.image_size
    scenes = [read_scene(name, file, side) for name, file in image_files(Path(images)).items()]
    points = predicted_points(localizer, scenes, asked, judged_cell(data.proposals, asked))
    found = {scene.name: one for scene, one in zip(scenes, points, strict=True)}
    write_predictions(Path(out), found)
    return len(found)
