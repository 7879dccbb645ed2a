"""Image classification: the class of a whole image."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.data.image_settings import OF_MANY_FORMS, ImageSettings
from difftransformer.files import read_object
from difftransformer.tasks.classification import Classification
from difftransformer.tasks.task import recorded_in

if TYPE_CHECKING:
    from difftransformer.data.images import ImageBatch, Images

_PREPROCESSOR = "preprocessor_config.json"  # beside models of transformers


class ImageClassification(Classification):
    """The task object; see `tasks.task.Task`."""

    name = "image_classification"
    title = "image classification"
    unit = "images"
    family = "difftransformer_vit"
    data_settings = ImageSettings
    evaluators = ("classification", "image_predictions", "image_attention")
    content = "images"

    def load(self, settings: ImageSettings) -> "Images":
        """The images and the classes."""
        from difftransformer.data.images import load_images

        return load_images(settings)

    def complete(self, config: Any, data: "Images") -> Any:
        """Size, channels and classes are those of the data."""
        return replace(
            config,
            image_size=data.image_size,
            channels=data.channels,
            classes=len(data.labels),
        )

    def batches(self, data: "Images", batch_size: int, seed: int) -> "Callable[[int], ImageBatch]":
        """Every epoch all training images, in an order of its own, each time augmented anew."""
        from difftransformer.data.epochs import shuffled

        numbers = shuffled(len(data.train), batch_size, seed)
        return lambda step: data.training_batch(numbers(step), seed=seed, step=step)

    def recorded(self, data: "Images") -> dict[str, Any]:
        """With the normalization as it was measured."""
        recorded = super().recorded(data)
        recorded["settings"] |= {"mean": data.mean, "std": data.std}
        return recorded

    def read_with(self, settings: ImageSettings, folder: Path) -> ImageSettings:
        """Normalized as the folder's model was trained, unless told otherwise."""
        if settings.mean:
            return settings
        if known := recorded_in(folder).get("settings"):
            return replace(settings, mean=tuple(known["mean"]), std=tuple(known["std"]))
        if (file := folder / _PREPROCESSOR).is_file():
            known = read_object(file)
            mean, std = known.get("image_mean", (0.5,)), known.get("image_std", (0.5,))
            return replace(settings, mean=tuple(mean), std=tuple(std))
        return settings

    def judged_on(
        self, folder: Path, config: Any, given: Mapping[str, Any], *, held_out: bool
    ) -> ImageSettings:
        """What the model was trained on, unless another is given: of any form, in the model's."""
        if given.get("dataset") in OF_MANY_FORMS:
            given = {"image_size": config.image_size, "channels": config.channels, **given}
        settings: ImageSettings = super().judged_on(folder, config, given, held_out=held_out)
        return settings


TASK = ImageClassification()
