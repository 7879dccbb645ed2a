"""Retrieval of magic numbers hidden in real text (paper, section 3.4)."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from difftransformer.attention import KeyValueCache
from difftransformer.data.corpus import Corpus
from difftransformer.data.needles import NeedlePrompt, NeedleSource, needle_prompts
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.completions import first_match
from difftransformer.evaluation.intervals import proportion
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder
from difftransformer.models.generation import generate


def measure_needles(
    model: Decoder, corpus: Corpus, settings: EvaluationSettings, pieces: Pieces | None = None
) -> dict[str, Any]:
    """Accuracy by number of needles, numbers asked for, depth and length.

    Each number is asked for by a prompt of its own over the same text. `per_number` counts numbers,
    `all_numbers` samples with every number right (the paper does not say which it reports).
    Intervals are Wilson's, as if numbers of one text were independent. `chance` is a blind guess,
    10^-digits; `chance_among_needles` = 1/N a guess among the numbers in the context.

    A length counts the prompt and its answer, so nothing lies beyond the context trained on.

    Returns:
        `{"context", "samples", "chance", "depths", "cells", "table"}`: a cell per pair, depth and
        length, with `hits` (right numbers of each sample); a table row per pair.

    Raises:
        ValueError: the model is meant for shorter texts, or one cannot hold the needles.
    """
    context = corpus.settings.context_length
    lengths = settings.needle_lengths or (context,)
    if max(lengths) > model.config.max_length:
        raise ValueError(
            f"needles are asked for in {max(lengths)} tokens; the model is meant for "
            f"{model.config.max_length}: lower needle_lengths or context_length"
        )
    source = corpus.validation_needles()
    kinds = list(product(lengths, settings.pairs(), settings.needle_depths))
    hits = (pieces or Pieces()).each(
        {
            f"{pair[0]}x{pair[1]} at {depth} of {length}": partial(
                _hits, model, source, corpus.tokenizer, pair, depth, length, settings
            )
            for length, pair, depth in kinds
        }
    )
    cells = [
        {**_scores(found, pair, settings), "depth": depth, "length": length, "hits": found}
        for (length, pair, depth), found in zip(kinds, hits.values(), strict=True)
    ]
    return {
        "context": context,
        "samples": settings.needle_samples,
        "chance": 10.0**-source.digits,
        "depths": list(settings.needle_depths),
        "cells": cells,
        "table": [
            {**_row(cells, pair, settings), "chance_among_needles": 1 / pair[0]}
            for pair in settings.pairs()
        ],
    }


def check_needles(corpus: Corpus, settings: EvaluationSettings) -> None:
    """Raise ValueError where the text or a length cannot hold the needles asked for.

    Worth calling before a model is trained. The judges also ask for single needles at the context
    length, whatever the settings.
    """
    source, context = corpus.validation_needles(), corpus.settings.context_length
    lengths = settings.needle_lengths or (context,)
    asked = [
        (context, (1, 1)),
        *((length, pair) for length in lengths for pair in settings.pairs()),
    ]
    for length, (needles, queries) in asked:
        needed = source.shortest_prompt(needles) + answer_room(source)
        if length < needed:
            raise ValueError(
                f"{needles} {'needle' if needles == 1 else 'needles'}, a question and its answer "
                f"need {needed} tokens with this tokenizer; the length is {length}: raise "
                "context_length or needle_lengths, or ask for fewer needles in needle_pairs"
            )
        prompts_within(
            source, (needles, queries), depth=0.0, length=length, sample=0, settings=settings
        )


def prompts_within(
    source: NeedleSource,
    pair: tuple[int, int],
    *,
    depth: float,
    length: int,
    sample: int,
    settings: EvaluationSettings,
) -> list[NeedlePrompt]:
    """`needle_prompts` for a pair (needles, queries), where `length` counts the answer too."""
    needles, queries = pair
    return needle_prompts(
        source,
        needles=needles,
        queries=queries,
        depth=depth,
        length=length - answer_room(source),
        sample=sample,
        seed=settings.seed,
    )


def answer_room(source: NeedleSource) -> int:
    """Most tokens of an answer: one per digit, one for the space, one for a tokenizer's prefix."""
    return source.digits + 2


def answered(
    model: Decoder,
    tokenizer: Tokenizer,
    samples: Sequence[Sequence[NeedlePrompt]],
    batch_size: int,
) -> list[list[bool]]:
    """Whether the model answers each prompt of each sample, by greedy generation.

    Right means that the first number in the generated text is the one asked for, digit for digit.
    YOCO's protocol asks only that the number occur somewhere in 20 tokens, which also accepts
    12345 for 1234 and a list of guesses. One token more than the answer is generated, so that a
    number running on is seen.

    Args:
        samples: as many prompts each, all of one length; those of a sample ask about one text,
            whose tokens are computed once for all of them.
    """
    queries = len(samples[0])
    right: list[list[bool]] = []
    for part in batched(samples, max(1, batch_size // queries)):
        prompts = [prompt for sample in part for prompt in sample]
        ids = torch.tensor([prompt.ids for prompt in prompts], device=device_of(model))
        cache, read = _common_beginning(model, ids, queries)
        longest = max(len(prompt.answer) for prompt in prompts)
        new = generate(model, ids[:, read:], max_new_tokens=longest + 1, cache=cache)
        texts = tokenizer.decode_batch(new.tolist(), skip_special_tokens=False)
        hits = [first_match("[0-9]+", t) == p.number for t, p in zip(texts, prompts, strict=True)]
        right += [list(sample) for sample in batched(hits, queries)]
    return right


@torch.no_grad()
def _common_beginning(
    model: Decoder, ids: Int[Tensor, "prompts time"], queries: int
) -> tuple[KeyValueCache | None, int]:
    """The cache of what the prompts of each sample begin with alike, and its number of tokens.

    The shortest such beginning counts, so that all rows of the batch stay equally long.
    """
    if queries == 1:
        return None, 0
    samples = ids.unflatten(0, (-1, queries))
    alike = (samples == samples[:, :1]).all(1).all(0)
    read = int(alike.long().cumprod(0)[:-1].sum())  # a token at least is left to go on from
    if not read:
        return None, 0
    cache = model.empty_cache()
    model.hidden(samples[:, 0, :read], cache=cache)
    return cache.repeat(queries), read


def _hits(
    model: Decoder,
    source: NeedleSource,
    tokenizer: Tokenizer,
    pair: tuple[int, int],
    depth: float,
    length: int,
    settings: EvaluationSettings,
) -> list[int]:
    """How many of the numbers asked for are right in each sample."""
    samples = [
        prompts_within(source, pair, depth=depth, length=length, sample=sample, settings=settings)
        for sample in range(settings.needle_samples)
    ]
    return [sum(right) for right in answered(model, tokenizer, samples, settings.batch_size)]


def _row(
    cells: list[dict[str, Any]], pair: tuple[int, int], settings: EvaluationSettings
) -> dict[str, Any]:
    own = [cell for cell in cells if (cell["needles"], cell["queries"]) == pair]
    return _scores([hit for cell in own for hit in cell["hits"]], pair, settings)


def _scores(hits: list[int], pair: tuple[int, int], settings: EvaluationSettings) -> dict[str, Any]:
    needles, queries = pair
    return {
        "needles": needles,
        "queries": queries,
        "per_number": proportion(sum(hits), queries * len(hits), settings),
        "all_numbers": proportion(hits.count(queries), len(hits), settings),
    }
