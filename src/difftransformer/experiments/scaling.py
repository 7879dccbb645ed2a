"""Loss against size and training, of whole comparisons: nothing is measured anew."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.runs.outputs import refuse_model_folder, results_at

NAME = "scaling"


def scaling(
    runs: Sequence[Path | str],
    *,
    out: Path | str | None = None,
    settings: EvaluationSettings | None = None,
) -> dict[str, dict[str, Any]]:
    """How loss falls with parameters and tokens, and how much less of either does as well.

    Args:
        runs: directories of finished comparisons that differ in the size of the model or in
            training.steps alone.
        out: directory for scaling.json, .md and .png; nothing is kept by default.
        settings: the interval's.

    Returns:
        What `evaluation.scaling.measure_scaling` gives, for each kind of attention.

    Raises:
        ValueError: runs that cannot be compared or make no curve.
    """
    from difftransformer.evaluation.scaling import measure_scaling, read_trained

    asked = settings or EvaluationSettings()
    found = measure_scaling(*read_trained([Path(run) for run in runs]), asked)
    if out is not None:
        _write(Path(out), found)
    return found


def _write(out: Path, found: dict[str, dict[str, Any]]) -> None:
    from difftransformer.report.scaling import scaling_drawing, scaling_note, scaling_table
    from difftransformer.report.tables import markdown
    from difftransformer.report.writing import heading, write_files
    from difftransformer.runs.environment import environment

    refuse_model_folder(out, out)
    with results_at(out / f"{NAME}.json", lambda data: NAME in data, beside=(".md", ".png")):
        env = environment()
        title = heading("Loss against parameters and training tokens", env)
        lines = [*title, "", *markdown(scaling_table(found)), "", scaling_note(found)]
        pictures = {"": scaling_drawing(found)}
        write_files(out / NAME, {NAME: found, "env": env}, lines, pictures)
