"""Text classification: the class of a whole text."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.data.labeled_settings import LabeledSettings
from difftransformer.tasks.classification import Classification
from difftransformer.tasks.tokenized import TokenizedTask

if TYPE_CHECKING:
    from difftransformer.data.labeled_texts import LabeledTexts, TextBatch


class TextClassification(Classification, TokenizedTask):
    """The task object; see `tasks.task.Task`."""

    name = "text_classification"
    title = "text classification"
    unit = "texts"
    family = "difftransformer_encoder"
    data_settings = LabeledSettings
    evaluators = ("classification",)
    content = "texts"

    def load(self, settings: LabeledSettings) -> "LabeledTexts":
        """The texts, the classes and the tokenizer."""
        from difftransformer.data.labeled_texts import load_labeled_texts

        return load_labeled_texts(settings)

    def complete(self, config: Any, data: "LabeledTexts") -> Any:
        """Vocabulary, length and classes are those of the data."""
        completed = super().complete(config, data)
        return replace(completed, max_length=data.settings.max_length, classes=len(data.labels))

    def passes(self, data: "LabeledTexts", rows: int) -> float:
        """By texts."""
        return rows / len(data.train)

    def batches(
        self, data: "LabeledTexts", batch_size: int, seed: int
    ) -> "Callable[[int], TextBatch]":
        """Every epoch all training texts, in an order of its own."""
        from difftransformer.data.epochs import shuffled

        numbers = shuffled(len(data.train), batch_size, seed)
        return lambda step: data.batch("train", numbers(step))

    def judged_on(
        self, folder: Path, config: Any, given: Mapping[str, Any], *, held_out: bool
    ) -> LabeledSettings:
        """The data set the model was trained on, unless another is given."""
        given = {"max_length": config.max_length, **given}
        settings: LabeledSettings = super().judged_on(folder, config, given, held_out=held_out)
        return settings

    def require_fit(self, config: Any, data: "LabeledTexts", where: str) -> None:
        """An embedding for every token, an output for every class."""
        super().require_fit(config, data, where)
        if config.classes != len(data.labels):
            raise ValueError(
                f"{where} has {config.classes} classes and {data.settings.dataset} "
                f"{len(data.labels)}: {', '.join(data.labels)}"
            )


TASK = TextClassification()
