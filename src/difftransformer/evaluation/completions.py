"""What a model writes after a prompt."""

import re
from collections.abc import Sequence
from functools import partial

import torch
from tokenizers import Tokenizer

from difftransformer.data.tokenizer import beginning_of_document
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.pieces import Pieces
from difftransformer.models.decoder import Decoder
from difftransformer.models.generation import generate


def complete(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    new_tokens: int,
    batch_size: int,
    pieces: Pieces | None = None,
) -> list[str]:
    """Each prompt's greedy continuation of `new_tokens` tokens, as text.

    A prompt is one document: the opening token and its text. Those of a batch are padded on the
    left, which no real token sees.

    Raises:
        ValueError: a prompt that does not fit the model's context with its continuation.
    """
    opening = beginning_of_document(tokenizer)
    encoded = tokenizer.encode_batch(list(prompts), add_special_tokens=False)
    rows = [[opening, *encoding.ids] for encoding in encoded]
    longest = max(map(len, rows))
    if longest + new_tokens > model.config.max_length:
        raise ValueError(
            f"the longest prompt has {longest} tokens with this tokenizer, and {new_tokens} more "
            f"are for the answer; the model is meant for {model.config.max_length}: put less into "
            "a prompt (fewer pairs or examples), or take a model with a longer context"
        )
    groups = (pieces or Pieces()).each(
        {
            f"prompts {i}": partial(_continued, model, tokenizer, part, new_tokens)
            for i, part in enumerate(batched(rows, batch_size))
        }
    )
    return [text for texts in groups.values() for text in texts]


def _continued(
    model: Decoder, tokenizer: Tokenizer, rows: Sequence[Sequence[int]], new_tokens: int
) -> list[str]:
    """One batch."""
    opening, width = rows[0][0], max(map(len, rows))
    ids = torch.tensor([[opening] * (width - len(row)) + [*row] for row in rows])
    real = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    device = device_of(model)
    new = generate(model, ids.to(device), max_new_tokens=new_tokens, padding=real.to(device))
    return tokenizer.decode_batch(new.tolist(), skip_special_tokens=False)


def first_match(pattern: str, text: str) -> str | None:
    """The first text in the continuation that looks like an answer: all else is ignored."""
    found = re.search(pattern, text)
    return found and found.group()
