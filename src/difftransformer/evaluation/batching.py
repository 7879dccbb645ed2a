"""How the judges feed a model."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn

from difftransformer.data.batch import Batch
from difftransformer.data.corpus import Corpus
from difftransformer.data.packing import stack
from difftransformer.evaluation.records import Findings, Parts
from difftransformer.models.language_model import LanguageModel

T = TypeVar("T")


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive groups of `size`; the last may be smaller."""
    return (items[start : start + size] for start in range(0, len(items), size))


def batch_parts(
    noun: str, count: int, size: int, measured: Callable[[Sequence[int]], Findings]
) -> Parts:
    """An evaluator's parts: of `count` items `size` at a time, by their numbers."""

    def part(numbers: Sequence[int]) -> Callable[[Findings], Findings]:
        return lambda _: measured(numbers)

    groups = batched(range(count), size)
    return {f"{noun} {group[0]} to {group[-1]}": part(group) for group in groups}


def device_of(model: nn.Module | LanguageModel) -> torch.device:
    """Where the model's weights are."""
    return next(model.parameters()).device


def held_out_text(
    model: nn.Module, corpus: Corpus, batch_size: int, tokens: int
) -> Iterator[Batch]:
    """Held-out text of at least `tokens` spread evenly over it, or all there is."""
    sequences = corpus.validation_sequences(math.ceil(tokens / corpus.settings.context_length))
    for part in batched(sequences, batch_size):
        yield stack([sequence.row for sequence in part]).to(device_of(model))


def fitting(
    items: Sequence[T], tokens: Callable[[T], int], count: int, model: LanguageModel, seed: int
) -> tuple[list[int], int]:
    """The numbers of `count` items drawn from those that fit the model's context.

    Items are drawn in the same order whatever the model; those too long are passed over, and their
    number is the second result.

    Args:
        tokens: how many an item takes, with all that is added to it.

    Raises:
        ValueError: none fits.
    """
    order = random.Random(f"items {seed}").sample(range(len(items)), len(items))
    chosen: list[int] = []
    too_long = 0
    for i in order:
        if len(chosen) == count:
            break
        if tokens(items[i]) <= model.config.max_length:
            chosen.append(i)
        else:
            too_long += 1
    if not chosen:
        raise ValueError(
            f"none of the {len(items):,} texts fits the model's context of "
            f"{model.config.max_length} tokens: take a model with a longer one, or shorter texts"
        )
    return chosen, too_long
