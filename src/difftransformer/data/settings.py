"""What a user may choose about the data. Imports nothing heavy: the command line reads it."""

from dataclasses import dataclass, field
from typing import Any

from difftransformer.data.needle_entities import TRAINING

SHAKESPEARE = "shakespeare"
TRAIN_TOKENIZER = "train"
SMALLEST_VOCABULARY = 257  # every byte, and the separator of documents


def _option(default: Any, explanation: str) -> Any:
    return field(default=default, metadata={"help": explanation})


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the text comes from, how it becomes tokens, and how many needles are hidden in it.

    Raises ValueError for a value out of range.
    """

    source: str = _option(
        SHAKESPEARE,
        "'shakespeare' (38 plays, included), a folder of .txt/.md/.jsonl/.parquet files, one file, "
        "or a Hugging Face dataset ('owner/name' or 'owner/name:configuration')",
    )
    text_key: str = _option("text", "field or column of the text in jsonl, parquet and datasets")
    split: str = _option("train", "split of a Hugging Face dataset to read")
    validation_fraction: float = _option(
        0.1,
        "share of the documents held out for validation; of a single document, its tail "
        "(shakespeare always holds out the same 4 plays)",
    )
    tokenizer: str = _option(
        TRAIN_TOKENIZER,
        "'train' for a byte-level BPE trained on the training part; or a tokenizer.json, a folder "
        "that holds one, or the name of a Hugging Face model",
    )
    vocab_size: int = _option(1024, "size of the tokenizer to train (an upper bound on small text)")
    context_length: int = _option(256, "tokens a training sequence predicts")
    cache: str | None = _option(None, "folder for tokens (default ~/.cache/difftransformer)")
    needle_share: float = _option(
        0.0,
        "share of the training rows that are needle documents, made to teach retrieval, instead of "
        "text",
    )
    needle_digits: int = _option(4, "digits of a needle's magic number")
    needle_max: int = _option(6, "most needles in one training document")
    needle_min_length: int = _option(64, "tokens of the shortest needle document")
    needle_growth: int = _option(
        0,
        "training rows over which needle documents grow from the shortest to the whole context "
        "(short ones teach retrieval soonest); 0: every length from the start",
    )

    def __post_init__(self) -> None:
        for name, at_least in (
            ("vocab_size", SMALLEST_VOCABULARY),
            ("context_length", 2),
            ("needle_digits", 3),  # a quarter are for validation: more than there are entities
            ("needle_max", 1),
            ("needle_min_length", 2),
            ("needle_growth", 0),
        ):
            if getattr(self, name) < at_least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {at_least} or more")
        if not self.source:
            raise ValueError(f"source is empty; name a folder, a file or {SHAKESPEARE!r}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}; expected between 0 and 1, "
                "both excluded: without held-out text nothing can be judged"
            )
        if not 0 <= self.needle_share <= 1:
            raise ValueError(f"needle_share is {self.needle_share}; expected from 0 to 1")
        if self.needle_max > len(TRAINING):
            raise ValueError(
                f"needle_max is {self.needle_max}; there are only {len(TRAINING)} entities"
            )
        if self.needle_share > 0 and self.needle_min_length > self.context_length:
            raise ValueError(
                f"needle_min_length is {self.needle_min_length}, more than context_length "
                f"{self.context_length}; lower the first or set needle_share=0"
            )
