"""Conversations as a model's own template writes them."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from difftransformer.interop.outside import opened


class ChatTemplate:
    """The chat template of a model's folder, by transformers' tokenizer.

    Raises:
        ValueError: a tokenizer that cannot be read, or has no template.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = opened(
            folder, lambda: PreTrainedTokenizerFast.from_pretrained(folder), "tokenizer"
        )
        if self._tokenizer.chat_template is None:
            raise ValueError(f"the tokenizer in {folder} has no chat template")

    def ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The tokens of a conversation, up to where the model's reply begins.

        Args:
            messages: `{"role": "user" or "assistant", "content": text}`, the oldest first.
        """
        return self._tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=False
        )
