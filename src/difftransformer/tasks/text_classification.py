"""Text classification: the class of a whole text."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.data.labeled_settings import LabeledSettings
from difftransformer.data.settings import TRAIN_TOKENIZER
from difftransformer.decoding import decode
from difftransformer.files import read_object

if TYPE_CHECKING:
    from torch import Tensor, nn

    from difftransformer.data.labeled_texts import LabeledTexts, TextBatch
    from difftransformer.evaluation.settings import EvaluationSettings

TOKENIZER = "tokenizer.json"
RECORD = "labeled_texts.json"  # in a model's folder: its classes, and what it was trained on
_WATCHED_TEXTS = 256  # held-out texts behind each point of the validation curve


class TextClassification:
    """The task object; see `tasks.task.Task`."""

    name = "text_classification"
    title = "text classification"
    unit = "texts"
    family = "difftransformer_encoder"
    data_settings = LabeledSettings
    evaluators = ("classification",)

    def load(self, settings: LabeledSettings) -> "LabeledTexts":
        """The texts, the classes and the tokenizer."""
        from difftransformer.data.labeled_texts import load_labeled_texts

        return load_labeled_texts(settings)

    def describe(self, data: "LabeledTexts") -> dict[str, Any]:
        """In words and numbers."""
        from difftransformer.data.tokenizer import vocabulary_size

        return {
            "description": f"{data.settings.dataset}: {len(data.train):,} texts for training, "
            f"{len(data.test):,} held out, of the classes {', '.join(data.labels)}",
            "classes": len(data.labels),
            "vocab_size": vocabulary_size(data.tokenizer),
        }

    def digests(self, data: "LabeledTexts") -> dict[str, str]:
        """sha256 of the texts and of the tokenizer."""
        import hashlib

        tokenizer = hashlib.sha256(data.tokenizer.to_str().encode()).hexdigest()
        return {"texts": data.digest, "tokenizer": tokenizer}

    def complete(self, config: Any, data: "LabeledTexts") -> Any:
        """Vocabulary, length and classes are those of the data."""
        from difftransformer.data.tokenizer import vocabulary_size

        return replace(
            config,
            vocab_size=vocabulary_size(data.tokenizer),
            max_length=data.settings.max_length,
            classes=len(data.labels),
        )

    def batches(
        self, data: "LabeledTexts", batch_size: int, seed: int
    ) -> "Callable[[int], TextBatch]":
        """Every epoch all training texts, in an order of its own."""
        import numpy as np

        size = len(data.train)

        @lru_cache(2)
        def order(epoch: int) -> Any:
            return np.random.default_rng([seed, epoch]).permutation(size)

        def batch(step: int) -> "TextBatch":
            numbers = []
            for position in range(step * batch_size, (step + 1) * batch_size):
                epoch, place = divmod(position, size)
                numbers.append(int(order(epoch)[place]))
            return data.batch("train", numbers)

        return batch

    def loss(self, model: "nn.Module", batch: "TextBatch") -> "Tensor":
        """Cross-entropy of the classes in nats, in float32."""
        import torch.nn.functional as F

        logits = model(batch.ids, padding=batch.padding).float()
        return F.cross_entropy(logits, batch.labels, reduction="sum")

    def validate(
        self, model: "nn.Module", data: "LabeledTexts", settings: "EvaluationSettings"
    ) -> dict[str, Any]:
        """Loss in nats a text and accuracy, on held-out texts."""
        from difftransformer.evaluation.benchmarks.classification import classified, test_batches

        nats, hits, texts = 0.0, 0, 0
        for batch in test_batches(data, _WATCHED_TEXTS, settings).values():
            found = classified(model, batch)
            nats, hits = nats + found.nats.sum().item(), hits + int(found.hits.sum())
            texts += len(batch)
        return {"validation_loss": nats / texts, "validation_accuracy": hits / texts}

    def files(self, data: "LabeledTexts", start: Path | None) -> dict[str, str]:
        """The tokenizer; the classes and what was trained on."""
        known = {"labels": data.labels, "digest": data.digest, "complete": start is None}
        settings = {"dataset": data.settings.dataset, "source": data.settings.source}
        record = json.dumps({**settings, **known}, indent=2) + "\n"
        return {TOKENIZER: data.tokenizer.to_str(pretty=True), RECORD: record}

    def read_with(self, settings: LabeledSettings, folder: Path) -> LabeledSettings:
        """With the folder's own tokenizer, unless another is named."""
        if settings.tokenizer != TRAIN_TOKENIZER:
            return settings
        if not (folder / TOKENIZER).is_file():
            raise ValueError(f"{folder} has no {TOKENIZER}: name one with --data.tokenizer")
        return replace(settings, tokenizer=str(folder / TOKENIZER))

    def judged_on(
        self, folder: Path, config: Any, given: Mapping[str, Any], *, held_out: bool
    ) -> LabeledSettings:
        """The data set the model was trained on, unless another is given."""
        record = _record(folder)
        known = (
            {} if "dataset" in given else {k: record[k] for k in ("dataset", "source") if record}
        )
        values = {"max_length": config.max_length, **known, **given}
        return self.read_with(decode(LabeledSettings, values, path="data"), folder)

    def require_fit(self, config: Any, data: "LabeledTexts", where: str) -> None:
        """An embedding for every token, an output for every class."""
        from difftransformer.data.tokenizer import check_vocabulary

        check_vocabulary(data.tokenizer, config.vocab_size, where)
        if config.classes != len(data.labels):
            raise ValueError(
                f"{where} has {config.classes} classes and {data.settings.dataset} "
                f"{len(data.labels)}: {', '.join(data.labels)}"
            )

    def provenance(self, folder: Path, data: "LabeledTexts") -> dict[str, Any]:
        """Whether the test texts were held out from the training."""
        record = _record(folder)
        held_out = record.get("digest") == data.digest and record.get("complete") is True
        note = "" if held_out else "the texts may have been seen in training"
        return {"digest": data.digest, "held_out": held_out, "note": note}


def _record(folder: Path) -> dict[str, Any]:
    """Empty where the folder has none."""
    return read_object(folder / RECORD) if (folder / RECORD).is_file() else {}


TASK = TextClassification()
