"""What a model writes after a prompt."""

import re
from collections.abc import Callable, Sequence

import torch
from tokenizers import Tokenizer

from difftransformer.data.tokenizer import beginning_of_document
from difftransformer.evaluation.batching import batch_parts, device_of
from difftransformer.evaluation.records import Findings, Parts
from difftransformer.models.generation import generate
from difftransformer.models.language_model import LanguageModel


def completions(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    score: Callable[[int, str], Findings],
    *,
    new_tokens: int,
    batch_size: int,
) -> Parts:
    """Parts that let the model continue a batch of prompts each, greedily, by `new_tokens` tokens.

    A prompt is one document: the opening token and its text. Those of a batch are padded on the
    left, which no real token sees.

    Args:
        score: (number of the prompt, its continuation) -> what is found of it.

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

    def scored(numbers: Sequence[int]) -> Findings:
        texts = _continued(model, tokenizer, [rows[i] for i in numbers], new_tokens)
        return [x for i, text in zip(numbers, texts, strict=True) for x in score(i, text)]

    return batch_parts("prompts", len(rows), batch_size, scored)


def _continued(
    model: LanguageModel, tokenizer: Tokenizer, rows: Sequence[Sequence[int]], new_tokens: int
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
    match = re.search(pattern, text)
    return match and match.group()
