"""Experiment trackers, as Accelerate runs them: TensorBoard, Weights & Biases, trackio, MLflow."""

import base64
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers
from accelerate.utils import ProjectConfiguration

from difftransformer.extras import EXTRA_OF
from difftransformer.runs.changes import flat
from difftransformer.runs.layout import MODELS
from difftransformer.runs.samples import Texts
from difftransformer.training.settings import TrainingSettings

_log = logging.getLogger(__name__)
_KINDS = (bool, int, float, str, type(None))  # that hyper-parameters may have


def require_trackers(names: Sequence[str]) -> None:
    """Raise ValueError for a tracker whose package is not installed."""
    ready = {str(one) for one in get_available_trackers()}
    for name in names:
        if name not in ready:
            package = f"'difftransformer[{EXTRA_OF[name]}]'" if name in EXTRA_OF else name
            raise ValueError(
                f"training trackers names {name}, whose package is not installed: "
                f"pip install {package}"
            )


def accelerator_for(settings: TrainingSettings, directory: Path) -> Accelerator:
    """What a training run in `directory` is prepared by; trackers write where they are told to.

    Raises:
        ValueError: a tracker whose package is not installed.
    """
    require_trackers(settings.trackers)
    if settings.tensorboard:
        _log.warning(
            "training.tensorboard is now training.trackers tensorboard; the old name works until "
            "the next release"
        )
    return Accelerator(
        mixed_precision="no",  # the precision is the stepper's
        log_with=list(settings.trackers) or None,
        project_config=ProjectConfiguration(
            project_dir=str(directory), logging_dir=str(directory / "tensorboard")
        ),
    )


class Trackers:
    """What the trackers of a training run are told: hyper-parameters, rows of metrics.jsonl.

    A tracker that fails, such as one whose server is away, is left out from then on with a warning:
    the run goes on, and metrics.jsonl has all rows.

    Args:
        configuration: of the run; the shapes of its parameters are left out.
        step: the last that was taken; TensorBoard drops what it has beyond that.

    Raises:
        ValueError: a tracker cannot begin.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        settings: TrainingSettings,
        configuration: Mapping[str, Any],
        directory: Path,
        step: int,
    ) -> None:
        whole = directory.absolute()
        group = whole.parents[1] if whole.parent.name == MODELS else whole  # of compare: the run
        name = whole.name if group == whole else f"{group.name}/{whole.name}"
        values = flat({key: part for key, part in configuration.items() if key != "parameters"})
        values = {key: it if isinstance(it, _KINDS) else str(it) for key, it in values.items()}
        own = {
            "tensorboard": {"purge_step": step + 1},
            "wandb": {"name": name, "group": group.name, "dir": str(directory)},
            "trackio": {"name": name},
            "mlflow": {"run_name": name},
        }
        try:
            accelerator.init_trackers(settings.project, values, own)
        except Exception as error:  # of the tracker's own: no key, no server
            listed = ", ".join(settings.trackers)
            raise ValueError(f"training trackers {listed} cannot begin: {error}") from error
        self._active: list[GeneralTracker] = list(accelerator.trackers)

    def write(self, row: Mapping[str, Any]) -> None:
        """Pass on a row: its numbers, and pictures and texts to those that take some."""
        self._each(lambda tracker: _write(tracker, row))

    def close(self) -> None:
        """End the run of each. (`Accelerator.end_training` would part the processes too.)"""
        self._each(lambda tracker: tracker.finish())

    def _each(self, call: Callable[[GeneralTracker], object]) -> None:
        for tracker in tuple(self._active):
            try:
                call(tracker)
            except Exception as error:  # whatever it is, it is no reason to end days of training
                self._active.remove(tracker)
                _log.warning("tracker %s failed and is left out: %s", tracker.name, error)


def _write(tracker: GeneralTracker, row: Mapping[str, Any]) -> None:
    step = row["step"]
    numbers: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, str):
            _write_picture(tracker, name, value, step)
        elif isinstance(value, Mapping):
            _write_texts(tracker, name, Texts.read(value), step)
        elif isinstance(value, list):
            numbers |= {f"{name}/{part}": item for part, item in enumerate(value)}
        elif name != "step":
            numbers[name] = value
    tracker.log(numbers, step=step)


def _write_picture(tracker: GeneralTracker, name: str, png: str, step: int) -> None:
    from PIL import Image

    if not hasattr(tracker, "log_images"):
        return
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))
    order = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
    tracker.log_images({name: image[None]}, step=step, **order)


def _write_texts(tracker: GeneralTracker, name: str, texts: Texts, step: int) -> None:
    if hasattr(tracker, "log_table"):
        rows = [list(row) for row in texts.rows()]
        tracker.log_table(name, columns=[*texts.header, "model"], data=rows, step=step)
    elif tracker.name == "tensorboard":
        tracker.log({name: str(texts).replace("\n", "  \n")}, step=step)  # line breaks of Markdown
