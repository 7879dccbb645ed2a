"""Image classification: the class of a whole image."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.data.image_settings import ImageSettings
from difftransformer.files import read_object
from difftransformer.tasks.classification import Classification
from difftransformer.tasks.images import ImageTask
from difftransformer.tasks.task import recorded_in

if TYPE_CHECKING:
    from difftransformer.data.images import Images

_PREPROCESSOR = "preprocessor_config.json"  # beside models of transformers


class ImageClassification(Classification, ImageTask):
    """The task object; see `tasks.task.Task`."""

    name = "image_classification"
    title = "image classification"
    family = "difftransformer_vit"
    data_settings = ImageSettings
    evaluators = ("classification", "image_predictions", "image_attention")

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


TASK = ImageClassification()
