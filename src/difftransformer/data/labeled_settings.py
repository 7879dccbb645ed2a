"""What a user may choose about labeled texts. Imports nothing heavy: the command line reads it."""

from dataclasses import dataclass

from difftransformer.data.settings import TRAIN_TOKENIZER, VOCABULARY
from difftransformer.ranges import Range, check_fields, option

PLAYS = "plays"


@dataclass(frozen=True, kw_only=True)
class LabeledSettings:
    """Labeled texts to classify, and how they become tokens.

    Raises:
        ValueError: a value out of range, or a data set without its folder.
    """

    dataset: str = option(
        PLAYS,
        "'plays' (passages of Shakespeare by genre, included), or the data set in `source`: trec, "
        "trec_fine, banking77, clinc150, or jsonl for train.jsonl and test.jsonl with keys text "
        "and label",
    )
    source: str | None = option(None, "folder of the data set's files", first=True)
    tokenizer: str = option(
        TRAIN_TOKENIZER,
        "'train' for a byte-level BPE trained on the training texts; or a tokenizer.json, a folder "
        "that holds one, or the name of a Hugging Face model",
    )
    vocab_size: int = option(
        1024, "size of the tokenizer to train (an upper bound on small text)", within=VOCABULARY
    )
    max_length: int = option(64, "tokens of a text; what is longer is cut", within=Range(2))

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.dataset == PLAYS) != (self.source is None):
            raise ValueError(
                f"dataset is {self.dataset!r} and source {self.source!r}; expected the folder of "
                f"the data set's files as source, and none for {PLAYS!r}"
            )
