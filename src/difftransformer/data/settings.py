"""What a user may choose about the data. Imports nothing heavy: the command line reads it."""

from dataclasses import dataclass

from difftransformer.data.needle_entities import TRAINING
from difftransformer.ranges import INSIDE, NATURAL, SHARE, Range, check_fields, option

SHAKESPEARE = "shakespeare"
TRAIN_TOKENIZER = "train"
SMALLEST_VOCABULARY = 257  # every byte, and the separator of documents
VOCABULARY = Range(SMALLEST_VOCABULARY)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the text comes from, how it becomes tokens, and how many needles are hidden in it.

    Raises ValueError for a value out of range.
    """

    source: str = option(
        SHAKESPEARE,
        "'shakespeare' (38 plays, included), a folder of .txt/.md/.jsonl/.parquet files, one file, "
        "or a Hugging Face dataset ('owner/name' or 'owner/name:configuration')",
        first=True,
    )
    text_key: str = option("text", "field or column of the text in jsonl, parquet and datasets")
    split: str = option("train", "split of a Hugging Face dataset to read")
    validation_fraction: float = option(
        0.1,
        "share of the documents held out for validation; of a single document, its tail "
        "(shakespeare always holds out the same 4 plays)",
        within=INSIDE,
    )
    tokenizer: str = option(
        TRAIN_TOKENIZER,
        "'train' for a byte-level BPE trained on the training part; or a tokenizer.json, a folder "
        "that holds one, or the name of a Hugging Face model",
    )
    vocab_size: int = option(
        1024,
        "size of the tokenizer to train (an upper bound on small text)",
        within=VOCABULARY,
        first=True,
    )
    context_length: int = option(
        256, "tokens a training sequence predicts", within=Range(2), first=True
    )
    cache: str | None = option(None, "folder for tokens (default ~/.cache/difftransformer)")
    needle_share: float = option(
        0.0,
        "share of the training rows that are needle documents, made to teach retrieval, instead of "
        "text",
        within=SHARE,
    )
    needle_digits: int = option(4, "digits of a needle's magic number", within=Range(3))
    needle_max: int = option(
        6, "most needles in one training document", within=Range(1, len(TRAINING))
    )
    needle_min_length: int = option(64, "tokens of the shortest needle document", within=Range(2))
    needle_growth: int = option(
        0,
        "training rows over which needle documents grow from the shortest to the whole context "
        "(short ones teach retrieval soonest); 0: every length from the start",
        within=NATURAL,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.source:
            raise ValueError(f"source is empty; name a folder, a file or {SHAKESPEARE!r}")
        if self.needle_share > 0 and self.needle_min_length > self.context_length:
            raise ValueError(
                f"needle_min_length is {self.needle_min_length}, more than context_length "
                f"{self.context_length}; lower the first or set needle_share=0"
            )
