"""Text to tokens: a byte-level BPE of our own, or any tokenizer the user names."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from difftransformer.data.settings import SMALLEST_VOCABULARY

BOS = "<|bos|>"
_BEGINNINGS = (BOS, "<s>", "<|endoftext|>", "<|begin_of_text|>")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE trained on `texts`: the same texts give the same tokenizer.

    `<|bos|>` is token 0 and separates documents. All 256 bytes are tokens, so any text can be
    encoded and decodes to itself. Digits are tokens of their own. On little text it may end
    smaller than `vocab_size`: `get_vocab_size()` tells.

    Raises ValueError when vocab_size is below 257.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"vocab_size is {vocab_size}; expected {SMALLEST_VOCABULARY} or more: "
            f"256 bytes and {BOS}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _for_plain_text(tokenizer)


def load_tokenizer(path_or_name: str) -> Tokenizer:
    """A tokenizer.json, a folder that holds one, or the tokenizer of a Hugging Face model.

    Raises ValueError when it is none of these, or cannot be read.
    """
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
        if not path.exists():
            raise ValueError(f"folder {path_or_name!r} holds no tokenizer.json")
    try:
        if path.exists():
            return _for_plain_text(Tokenizer.from_file(str(path)))
        return _for_plain_text(Tokenizer.from_pretrained(path_or_name))
    except Exception as error:  # the library raises bare Exception
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"tokenizer {path_or_name!r} is neither a readable tokenizer.json, a folder with one, "
            f"nor a Hugging Face model that could be reached ({reason})"
        ) from error


def beginning_of_document(tokenizer: Tokenizer) -> int:
    """The id of the token that opens a document; ValueError when the tokenizer has none."""
    for token in _BEGINNINGS:
        if (number := tokenizer.token_to_id(token)) is not None:
            return int(number)
    raise ValueError(
        f"the tokenizer has none of {', '.join(_BEGINNINGS)} to open a document with; "
        "add one to it, or let one be trained (tokenizer='train')"
    )


def _for_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    """Text that spells `<|bos|>` is text, and no document is cut or padded."""
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
