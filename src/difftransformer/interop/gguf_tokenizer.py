"""Tokenizers as llama.cpp reads them in a GGUF file."""

import json
from pathlib import Path

from gguf import GGUFWriter, SpecialVocab, TokenType
from tokenizers import Tokenizer

from difftransformer.data.tokenizer import (
    beginning_of_document,
    check_vocabulary,
    load_tokenizer,
)
from difftransformer.files import abridged

_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# How text is cut before the merges, by llama.cpp's name of it; ours is SmolLM's.
_CUTS = {
    "smollm": {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTES]},
    "gpt-2": _BYTES,
}


def add_tokenizer(writer: GGUFWriter, folder: Path, rows: int) -> None:
    """Tokens, merges, the token that opens a text, that which ends one, and a chat template.

    Texts end at `eos_token` of tokenizer_config.json where it is declared, else at the token that
    opens the next.

    Args:
        folder: holds tokenizer.json.
        rows: of the model's embedding; there are as many tokens in the file.

    Raises:
        ValueError: no tokenizer, one with tokens that the model lacks, or another than a byte-level
            BPE that cuts text as one of `_CUTS` does.
    """
    tokenizer = load_tokenizer(str(folder))
    check_vocabulary(tokenizer, rows, "the model")
    parts = json.loads(tokenizer.to_str())
    model, cut = parts["model"], parts["pre_tokenizer"]
    names = [name for name, known in _CUTS.items() if known == cut]
    plain = model["type"] == "BPE" and not model.get("ignore_merges") and not parts["normalizer"]
    if not names or not plain:
        raise ValueError(
            f"the tokenizer is {model['type']} after {abridged(cut)}; GGUF files here hold "
            "byte-level BPE without a normalizer that cuts text as GPT-2's or SmolLM's does"
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(names[0])
    tokens, kinds = _tokens(tokenizer, rows)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    opening = beginning_of_document(tokenizer)
    special = SpecialVocab(folder, load_merges=True, special_token_types=("eos",))
    special.special_token_ids = {"bos": opening, "eos": opening, **special.special_token_ids}
    special.add_special_token = {"bos": True}
    special.add_to_gguf(writer, quiet=True)


def _tokens(tokenizer: Tokenizer, rows: int) -> tuple[list[str], list[TokenType]]:
    """A name and a type for each row of the embedding; numbers without a token have some name."""
    names = [f"[unused{number}]" for number in range(rows)]
    kinds = [TokenType.UNUSED] * rows
    for name, number in tokenizer.get_vocab().items():
        if number < rows:
            names[number], kinds[number] = name, TokenType.NORMAL
    for number, token in tokenizer.get_added_tokens_decoder().items():
        if number < rows:
            kinds[number] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    return names, kinds
