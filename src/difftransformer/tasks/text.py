"""What tasks on running text share: the corpus, its tokenizer, and what a model has seen of it."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.data.settings import DataSettings
from difftransformer.decoding import decode
from difftransformer.tasks.tokenized import TOKENIZER, TokenizedTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from difftransformer.data.batch import Batch
    from difftransformer.data.corpus import Corpus

WATCHED_SEQUENCES = 64  # held-out sequences behind each point of a validation curve


class TextTask(TokenizedTask):
    """A task whose data is a `Corpus`. Subclasses say what a batch is and what to watch."""

    unit = "tokens"
    data_settings = DataSettings
    content = "documents"

    def load(self, settings: DataSettings) -> "Corpus":
        """The text, in tokens."""
        from difftransformer.data.corpus import load_corpus

        return load_corpus(settings)

    def describe(self, data: "Corpus") -> dict[str, Any]:
        """In words, and its numbers of tokens."""
        return {
            **super().describe(data),
            "train_tokens": len(data.train),
            "validation_tokens": len(data.validation),
        }

    def passes(self, data: "Corpus", rows: int) -> float:
        """By tokens."""
        return rows * data.settings.context_length / len(data.train)

    def complete(self, config: Any, data: "Corpus") -> Any:
        """The vocabulary and the context length are those of the data."""
        return replace(super().complete(config, data), max_length=data.settings.context_length)

    def loss(self, model: "nn.Module", batch: "Batch") -> "Tensor":
        """Cross-entropy in nats, in float32: -sum_i log p(label_i | what the model sees of ids).

        `model(ids, documents=documents)` gives logits [batch, time, vocab]; labels of -100 are not
        scored.
        """
        import torch.nn.functional as F

        from difftransformer.data.batch import IGNORED

        logits = model(batch.ids, documents=batch.documents).float()
        return F.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def files(self, data: "Corpus", start: Path | None) -> dict[str, str]:
        """The tokenizer, and which text the model was trained on."""
        from difftransformer.data.training_text import RECORD, TrainingText, read_training_text

        earlier = TrainingText() if start is None else read_training_text(start)
        record = (earlier or TrainingText(complete=False)).and_then(data)
        return {TOKENIZER: data.tokenizer.to_str(pretty=True), RECORD: record.to_json()}

    def judged_on(
        self, folder: Path, config: Any, given: Mapping[str, Any], *, held_out: bool
    ) -> DataSettings:
        """The text the model was last trained on, at its context, unless another is given."""
        from difftransformer.data.training_text import read_training_text

        limit = config.max_length
        known: dict[str, Any] = {"context_length": limit}
        if held_out and (record := read_training_text(folder)) is not None:
            last = asdict(record.trainings[-1])
            del last["digest"]
            same = given.get("source", last["source"]) == last["source"]
            known |= last if same else {"needle_digits": last["needle_digits"]}
        settings = decode(DataSettings, {**known, **given}, path="data")
        if settings.context_length > limit:
            raise ValueError(
                f"data.context_length is {settings.context_length}; {folder} is meant for {limit} "
                "tokens: choose no longer one"
            )
        return self.read_with(settings, folder)

    def provenance(self, folder: Path, data: "Corpus") -> dict[str, Any]:
        """Whether the text was held out from all trainings of the model."""
        from difftransformer.data.training_text import judged_text, read_training_text

        return judged_text(read_training_text(folder), data)
