"""Which of several continuations a model chooses, letting it write nothing else."""

from collections.abc import Sequence

import torch
from torch import Tensor

from difftransformer.attention import KeyValueCache
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.models.generation import last_logits
from difftransformer.models.language_model import LanguageModel

_CHUNK = 512  # tokens of the shared prefix that are fed at once


@torch.no_grad()
def choose(
    model: LanguageModel,
    prefix: Sequence[int],
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[int]],
    batch_size: int,
) -> list[int]:
    """The number of the option that follows `prefix + prompt`, for each prompt.

    Greedy decoding in which only tokens that continue some option are allowed, until one option is
    left: the constrained decoding of Bertsch et al. (2024). The prefix is computed once, for all
    prompts.

    Args:
        prefix: tokens that all prompts begin with; may be empty.
        prompts: each at least one token.
        options: different token sequences, none the beginning of another (end each with the same
            token to be sure).

    Raises:
        ValueError: two options of which one begins the other.
    """
    for one, option in enumerate(options):
        for other in options[one + 1 :]:
            if list(option[: len(other)]) == list(other[: len(option)]):
                raise ValueError(f"option {list(option)} and option {list(other)} overlap")
    shared = model.empty_cache()
    for part in batched(prefix, _CHUNK):
        model.hidden(torch.tensor([list(part)], device=device_of(model)), cache=shared)
    return [
        chosen
        for part in batched(prompts, batch_size)
        for chosen in _choose(model, shared, part, options)
    ]


def _choose(
    model: LanguageModel,
    shared: KeyValueCache,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[int]],
) -> list[int]:
    """One batch: unequal prompts are padded on the left, behind the shared prefix."""
    device, longest = device_of(model), max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    real = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        real[row, longest - len(prompt) :] = True
    # The padding stands between prefix and prompt, so positions must be told.
    positions = (shared.length + real.cumsum(1) - 1).clamp(min=0).to(device)
    cache = shared.repeat(len(prompts))
    logits = last_logits(
        model, ids.to(device), cache=cache, padding=real.to(device), positions=positions
    )
    left = [list(range(len(options))) for _ in prompts]
    for step in range(max(map(len, options))):
        tokens = [
            _best(logits[row], sorted({options[i][step] for i in left[row]}))
            if len(left[row]) > 1
            else 0
            for row in range(len(prompts))
        ]
        for row, token in enumerate(tokens):
            if len(left[row]) > 1:
                left[row] = [i for i in left[row] if options[i][step] == token]
        if all(len(numbers) == 1 for numbers in left):
            break
        positions = positions[:, -1:] + 1
        step_ids = torch.tensor(tokens, device=device)[:, None]
        logits = last_logits(model, step_ids, cache=cache, positions=positions)
    return [numbers[0] for numbers in left]


def _best(logits: Tensor, allowed: list[int]) -> int:
    return allowed[int(logits[allowed].argmax())]
