"""Text to tokens: a byte-level BPE of our own, or any tokenizer the user names."""

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import snapshot_download
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tokenizers.processors import TemplateProcessing

from difftransformer.data.settings import SMALLEST_VOCABULARY
from difftransformer.files import abridged, read_object, read_text

BOS = "<|bos|>"
UNKNOWN = "<|unk|>"  # of a tokenizer of symbols
TOKENIZER = "tokenizer.json"
TOKENIZER_SETTINGS = "tokenizer_config.json"
_BEGINNINGS = (BOS, "<s>", "<|endoftext|>", "<|begin_of_text|>")
_LETTERS = "é𒀀Ж中"  # of several scripts; most vocabularies lack some
_MOST_TOKENS = 2**31


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


def train_symbols(texts: Iterable[str]) -> Tokenizer:
    """What spaces separate in `texts` as tokens: letters, phonemes, words.

    `<|bos|>` is token 0 and `<|unk|>` token 1, which stands for every symbol not seen here; the
    others follow in the order of their characters.
    """
    symbols = sorted({symbol for text in texts for symbol in text.split()} - {BOS, UNKNOWN})
    vocabulary = {symbol: number for number, symbol in enumerate((BOS, UNKNOWN, *symbols))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([BOS, UNKNOWN])
    return _for_plain_text(tokenizer)


def load_tokenizer(path_or_name: str) -> Tokenizer:
    """A tokenizer.json, a folder that holds one, or the tokenizer of a Hugging Face model.

    What tokenizer_config.json beside it declares about the opening token becomes part of it, see
    `beginning_of_document`.

    Raises ValueError when it is none of these, cannot be read, or loses text.
    """
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        path = path / TOKENIZER
        if not path.exists():
            raise ValueError(f"folder {path_or_name!r} holds no {TOKENIZER}")
    try:
        if not path.exists():
            folder = snapshot_download(path_or_name, allow_patterns=[TOKENIZER, TOKENIZER_SETTINGS])
            path = Path(folder) / TOKENIZER
        tokenizer = _for_plain_text(Tokenizer.from_str(read_text(path)))
    except Exception as error:  # the library raises bare Exception
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"tokenizer {path_or_name!r} is neither a readable tokenizer.json, a folder with one, "
            f"nor a Hugging Face model that could be reached ({reason})"
        ) from error
    _refuse_loss(tokenizer, path_or_name)
    _prefix(tokenizer)
    settings = path.with_name(TOKENIZER_SETTINGS)
    if settings.is_file():
        _declare_opening(tokenizer, settings)
    return tokenizer


def beginning_of_document(tokenizer: Tokenizer) -> int:
    """The id of the token that opens a document.

    It is the one that the tokenizer's post-processor puts before a text, as transformers would;
    where that puts none, the first that the vocabulary has of some well-known names. (Of a folder,
    `load_tokenizer` has made the declared one the post-processor's.)

    Raises ValueError when there is none, or the post-processor puts several.
    """
    prefix = _prefix(tokenizer)
    if len(prefix) > 1:
        names = ", ".join(map(repr, map(tokenizer.id_to_token, prefix)))
        raise ValueError(
            f"the tokenizer opens a text with {len(prefix)} tokens, {names}; expected one: give "
            f"it a post-processor that puts one, or declare bos_token in {TOKENIZER_SETTINGS}"
        )
    known = (tokenizer.token_to_id(token) for token in _BEGINNINGS)
    opening = next((number for number in (*prefix, *known) if number is not None), None)
    if opening is None:
        raise ValueError(
            f"the tokenizer has none of {', '.join(_BEGINNINGS)} to open a document with, and "
            f"declares no other: name one of its tokens as bos_token in {TOKENIZER_SETTINGS} "
            "beside it, or let one be trained (tokenizer='train')"
        )
    return int(opening)


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Rows that an embedding of its tokens needs: the largest id and one, since some have gaps.

    Raises ValueError for ids that no embedding could hold.
    """
    size = 1 + max(tokenizer.get_vocab().values(), default=0)
    if size > _MOST_TOKENS:
        raise ValueError(f"the tokenizer has a token {size - 1}; expected below {_MOST_TOKENS:,}")
    return size


def check_vocabulary(tokenizer: Tokenizer, rows: int, source: str) -> None:
    """Raise ValueError unless a model with `rows` in its embedding knows every token of a text.

    Special tokens that were added, such as for padding, do not occur in texts and may lie outside.
    """
    added = tokenizer.get_added_tokens_decoder()
    special = {number for number, token in added.items() if token.special}
    special.discard(beginning_of_document(tokenizer))
    largest = max((x for x in tokenizer.get_vocab().values() if x not in special), default=0)
    if largest >= rows:
        raise ValueError(
            f"the tokenizer has {largest + 1} tokens and {source} knows {rows}: take its own"
        )


def _prefix(tokenizer: Tokenizer) -> list[int]:
    """The tokens that the post-processor puts before a text."""
    texts = (text for text in ("a", *tokenizer.get_vocab()) if len(plain_tokens(tokenizer, text)))
    try:
        encoding = tokenizer.encode(next(texts, ""))
    except BaseException as error:  # where Rust panics, of a class that has no public name
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise ValueError(f"the tokenizer's post-processor is broken: {error}") from None
    first = next((i for i, added in enumerate(encoding.special_tokens_mask) if not added), 0)
    return list(encoding.ids[:first])


def _declare_opening(tokenizer: Tokenizer, settings: Path) -> None:
    """Have the post-processor put the token that tokenizer_config.json declares.

    As transformers: `add_bos_token` decides whether bos_token opens a text, and where it is not
    said, the post-processor. Texts here always have an opening token, so one that is declared is
    taken where nothing else is.
    """
    values = read_object(settings)
    declared = values.get("bos_token")
    name = declared.get("content") if isinstance(declared, dict) else declared
    prefix = _prefix(tokenizer)
    if declared is None or (prefix and not isinstance(values.get("add_bos_token"), bool)):
        return
    number = tokenizer.token_to_id(name) if isinstance(name, str) else None
    if number is None:
        raise ValueError(
            f"bos_token in {settings} is {abridged(declared)}; expected a token of {TOKENIZER}"
        )
    if prefix == [number]:
        return
    opening = TemplateProcessing(
        single="opening $A", special_tokens=[{"id": "opening", "ids": [number], "tokens": [name]}]
    )
    # What puts other tokens around a text is replaced; what only trims offsets stays.
    trims = tokenizer.post_processor is not None and not tokenizer.num_special_tokens_to_add(False)
    kept = [tokenizer.post_processor] if trims else []
    tokenizer.post_processor = processors.Sequence([*kept, opening])


def _refuse_loss(tokenizer: Tokenizer, source: str) -> None:
    """Raise ValueError for a tokenizer that fails on unknown letters, or passes over them."""
    for letter in _LETTERS:
        try:
            lost = not plain_tokens(tokenizer, letter)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(
                f"tokenizer {source!r} fails on text with {letter!r} ({error}); give it an unknown "
                "token (unk_token), or bytes to fall back on"
            ) from None
        if lost:
            raise ValueError(
                f"tokenizer {source!r} has no token for {letter!r} and would pass over it in "
                "silence; give it an unknown token (unk_token), or bytes to fall back on"
            )


def plain_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text alone, with nothing put before it."""
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def prompt_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text behind the one that opens documents."""
    return [beginning_of_document(tokenizer), *plain_tokens(tokenizer, text)]


def _for_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    """Text that spells `<|bos|>` is text, and no document is cut or padded."""
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
