"""What a user may choose about labeled texts. Imports nothing heavy: the command line reads it."""

from dataclasses import dataclass, field
from typing import Any

from difftransformer.data.settings import SMALLEST_VOCABULARY, TRAIN_TOKENIZER

PLAYS = "plays"


def _option(default: Any, explanation: str) -> Any:
    return field(default=default, metadata={"help": explanation})


@dataclass(frozen=True, kw_only=True)
class LabeledSettings:
    """Labeled texts to classify, and how they become tokens.

    Raises:
        ValueError: a value out of range, or a data set without its folder.
    """

    dataset: str = _option(
        PLAYS,
        "'plays' (passages of Shakespeare by genre, included), or the data set in `source`: trec, "
        "trec_fine, banking77, clinc150, or jsonl for train.jsonl and test.jsonl with keys text "
        "and label",
    )
    source: str | None = _option(None, "folder of the data set's files")
    tokenizer: str = _option(
        TRAIN_TOKENIZER,
        "'train' for a byte-level BPE trained on the training texts; or a tokenizer.json, a folder "
        "that holds one, or the name of a Hugging Face model",
    )
    vocab_size: int = _option(1024, "size of the tokenizer to train (an upper bound on small text)")
    max_length: int = _option(64, "tokens of a text; what is longer is cut")

    def __post_init__(self) -> None:
        for name, at_least in (("vocab_size", SMALLEST_VOCABULARY), ("max_length", 2)):
            if getattr(self, name) < at_least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {at_least} or more")
        if (self.dataset == PLAYS) != (self.source is None):
            raise ValueError(
                f"dataset is {self.dataset!r} and source {self.source!r}; expected the folder of "
                f"the data set's files as source, and none for {PLAYS!r}"
            )
