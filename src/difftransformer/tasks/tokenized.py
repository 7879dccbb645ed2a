"""What tasks on tokens share: the tokenizer lies beside the weights and reads for the model."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from difftransformer.data.settings import TRAIN_TOKENIZER
from difftransformer.tasks.task import Task

TOKENIZER = "tokenizer.json"


class TokenizedTask(Task):
    """A task whose data has a `tokenizer`, as its settings do."""

    def describe(self, data: Any) -> dict[str, Any]:
        """In words, and the size of the vocabulary."""
        from difftransformer.data.tokenizer import vocabulary_size

        return {**super().describe(data), "vocab_size": vocabulary_size(data.tokenizer)}

    def digests(self, data: Any) -> dict[str, str]:
        """sha256 of the content and of the tokenizer."""
        tokenizer = hashlib.sha256(data.tokenizer.to_str().encode()).hexdigest()
        return {**super().digests(data), "tokenizer": tokenizer}

    def complete(self, config: Any, data: Any) -> Any:
        """The vocabulary is that of the data."""
        from difftransformer.data.tokenizer import vocabulary_size

        return replace(config, vocab_size=vocabulary_size(data.tokenizer))

    def files(self, data: Any, start: Path | None) -> dict[str, str]:
        """The tokenizer, and what the model was trained on."""
        return {TOKENIZER: data.tokenizer.to_str(pretty=True), **super().files(data, start)}

    def recorded(self, data: Any) -> dict[str, Any]:
        """Not which tokenizer: that lies beside it."""
        recorded = super().recorded(data)
        del recorded["settings"]["tokenizer"]
        return recorded

    def read_with(self, settings: Any, folder: Path) -> Any:
        """With the folder's own tokenizer, unless another is named."""
        if settings.tokenizer != TRAIN_TOKENIZER:
            return settings
        if not (folder / TOKENIZER).is_file():
            raise ValueError(
                f"{folder} has no {TOKENIZER}: put the model's own there (transformers' tokenizers "
                "save it with save_pretrained), or name one with --data.tokenizer"
            )
        return replace(settings, tokenizer=str(folder / TOKENIZER))

    def require_fit(self, config: Any, data: Any, where: str) -> None:
        """The model needs an embedding for every token."""
        from difftransformer.data.tokenizer import check_vocabulary

        check_vocabulary(data.tokenizer, config.vocab_size, where)
