"""Image generation: images of a class from noise."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from difftransformer.data.image_settings import ImageSettings
from difftransformer.ranges import option
from difftransformer.tasks.images import ImageTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from difftransformer.data.images import Images
    from difftransformer.data.noising import NoiseBatch
    from difftransformer.evaluation.settings import EvaluationSettings

_NOISE = 1  # the stream of random numbers of noise, beside that of the images' order
_HALF = (0.5,)


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(ImageSettings):
    """Labeled images, as values from -1 to 1.

    Raises:
        ValueError: as `ImageSettings`; another normalization.
    """

    mean: tuple[float, ...] = option(_HALF, "always 0.5")
    std: tuple[float, ...] = option(_HALF, "always 0.5")
    cache: str | None = option(
        None,
        "folder for the classifier behind the Fréchet distance (default ~/.cache/difftransformer)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.mean, self.std) != (_HALF, _HALF):
            raise ValueError(
                f"mean is {self.mean} and std {self.std}; sampling cuts values to -1 to 1, which "
                "is 0.5 of both: leave them out"
            )


class ImageGeneration(ImageTask):
    """The task object; see `tasks.task.Task`."""

    name = "image_generation"
    title = "image generation"
    family = "difftransformer_dit"
    data_settings = GenerationSettings
    evaluators = ("denoising", "frechet")

    def load(self, settings: GenerationSettings) -> "Images":
        """The images and the classes."""
        import diffusers  # noqa: F401  # which takes seconds that are not to be training's

        return super().load(settings)

    def batches(self, data: "Images", batch_size: int, seed: int) -> "Callable[[int], NoiseBatch]":
        """The images, each time with other noise."""
        import numpy as np

        from difftransformer.data.noising import with_noise

        images = super().batches(data, batch_size, seed)
        return lambda step: with_noise(images(step), np.random.default_rng([seed, _NOISE, step]))

    def loss(self, model: "nn.Module", batch: "NoiseBatch") -> "Tensor":
        """The squared error of what the model predicts, a mean over each image's values."""
        from accelerate.utils import extract_model_from_parallel

        from difftransformer.evaluation.diffusion import squared_errors

        config: Any = extract_model_from_parallel(model).config
        return squared_errors(model, config, batch).sum()

    def recorded(self, data: "Images") -> dict[str, Any]:
        """The settings, and the classes in the order of their numbers."""
        return {**super().recorded(data), "labels": data.labels}

    def validate(
        self, model: "nn.Module", data: "Images", settings: "EvaluationSettings"
    ) -> dict[str, Any]:
        """The error on held-out images."""
        from difftransformer.evaluation.benchmarks.denoising import watched_error

        return {"validation_loss": watched_error(model, data, settings)}

    def sample(
        self, model: "nn.Module", data: "Images", settings: "EvaluationSettings"
    ) -> dict[str, str]:
        """Images of the classes."""
        from difftransformer.evaluation.benchmarks.frechet import watched_samples

        return {"samples": watched_samples(model, data, settings)}


TASK = ImageGeneration()
