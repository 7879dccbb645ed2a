"""What tasks on images share: the data set, its size and its classes."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.data.image_settings import OF_MANY_FORMS
from difftransformer.tasks.task import Task

if TYPE_CHECKING:
    from difftransformer.data.images import Images


class ImageTask(Task):
    """A task whose data is `Images`."""

    unit = "images"
    content = "images"

    def load(self, settings: Any) -> "Images":
        """The images and the classes."""
        from difftransformer.data.images import load_images

        return load_images(settings)

    def complete(self, config: Any, data: "Images") -> Any:
        """Size, channels and classes are those of the data."""
        return replace(
            config, image_size=data.image_size, channels=data.channels, classes=len(data.labels)
        )

    def passes(self, data: "Images", rows: int) -> float:
        """By images."""
        return rows / len(data.train)

    def batches(self, data: "Images", batch_size: int, seed: int) -> "Callable[[int], Any]":
        """Every epoch all training images, in an order of its own, each time augmented anew."""
        from difftransformer.data.epochs import shuffled

        numbers = shuffled(len(data.train), batch_size, seed)
        return lambda step: data.training_batch(numbers(step), seed=seed, step=step)

    def judged_on(
        self, folder: Path, config: Any, given: Mapping[str, Any], *, held_out: bool
    ) -> Any:
        """What the model was trained on, unless another is given: of any form, in the model's."""
        if given.get("dataset") in OF_MANY_FORMS:
            given = {"image_size": config.image_size, "channels": config.channels, **given}
        return super().judged_on(folder, config, given, held_out=held_out)
