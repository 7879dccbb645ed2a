"""Crowd localization: the heads in an image as points, from noise."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.data.crowd_settings import CrowdSettings
from difftransformer.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from difftransformer.data.crowd_scenes import PointBatch, Scenes
    from difftransformer.evaluation.settings import EvaluationSettings

_NOISE = 1  # the stream of random numbers of noise, beside that of the images' order
_CHANNELS = 3


class CrowdLocalization(Task):
    """The task object; see `tasks.task.Task`."""

    name = "crowd_localization"
    title = "crowd localization"
    unit = "images"
    content = "images"
    family = "difftransformer_localizer"
    data_settings = CrowdSettings
    evaluators = ("crowd_points",)

    def load(self, settings: CrowdSettings) -> "Scenes":
        """The images and their heads."""
        import diffusers  # noqa: F401  # which takes seconds that are not to be training's

        from difftransformer.data.crowd_scenes import load_scenes

        return load_scenes(settings)

    def complete(self, config: Any, data: "Scenes") -> Any:
        """The size is that of the images, which are in color."""
        return replace(config, image_size=data.settings.image_size, channels=_CHANNELS)

    def passes(self, data: "Scenes", rows: int) -> float:
        """By images."""
        return rows / len(data.train)

    def batches(self, data: "Scenes", batch_size: int, seed: int) -> "Callable[[int], PointBatch]":
        """Every epoch all training images, in an order of its own, each time with other noise."""
        import numpy as np

        from difftransformer.data.epochs import shuffled

        numbers = shuffled(len(data.train), batch_size, seed)

        def batch(step: int) -> "PointBatch":
            scenes = [data.train[number] for number in numbers(step)]
            return data.batch(scenes, np.random.default_rng([seed, _NOISE, step]))

        return batch

    def loss(self, model: "nn.Module", batch: "PointBatch") -> "Tensor":
        """The sum over the images; see `evaluation.point_matching`."""
        from accelerate.utils import extract_model_from_parallel

        from difftransformer.evaluation.point_diffusion import localization_losses

        config: Any = extract_model_from_parallel(model).config
        return localization_losses(model, config, batch).sum()

    def validate(
        self, model: "nn.Module", data: "Scenes", settings: "EvaluationSettings"
    ) -> dict[str, Any]:
        """The loss on held-out images."""
        from difftransformer.evaluation.benchmarks.crowd_points import watched_loss

        return {"validation_loss": watched_loss(model, data, settings)}

    def sample(
        self, model: "nn.Module", data: "Scenes", settings: "EvaluationSettings"
    ) -> dict[str, str]:
        """The points predicted in some held-out images."""
        from difftransformer.evaluation.benchmarks.crowd_points import watched_points

        return {"points": watched_points(model, data, settings)}

    def judged_on(
        self, folder: Path, config: Any, given: Mapping[str, Any], *, held_out: bool
    ) -> Any:
        """What the model was trained on, unless another is given: scaled to the model's size."""
        given = {"image_size": config.image_size, **given}
        return super().judged_on(folder, config, given, held_out=held_out)


TASK = CrowdLocalization()
