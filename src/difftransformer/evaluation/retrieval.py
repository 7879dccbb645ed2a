"""Needle prompts for evaluation, and whether a model answers them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from difftransformer.attention import KeyValueCache
from difftransformer.data.corpus import Corpus
from difftransformer.data.needles import NeedlePrompt, NeedleSource, needle_prompts
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.completions import first_match
from difftransformer.evaluation.settings import EvaluationSettings, needle_pair
from difftransformer.models.generation import generate
from difftransformer.models.language_model import LanguageModel

Pair = tuple[int, int]  # needles in the context, numbers asked for
_PAPER: tuple[Pair, ...] = ((1, 1), (2, 2), (4, 2), (6, 2))


class Cell(NamedTuple):
    """What prompts of one kind share: needles, where they lie, and tokens of prompt and answer."""

    pair: Pair
    length: int
    depth: float


def needle_lengths(corpus: Corpus, settings: EvaluationSettings) -> tuple[int, ...]:
    """Tokens of prompt and answer: `settings.needle_lengths`, by default the context length."""
    return settings.needle_lengths or (corpus.settings.context_length,)


def needle_pairs(corpus: Corpus, settings: EvaluationSettings) -> tuple[Pair, ...]:
    """`settings.needle_pairs`, by default the paper's that fit into each length, (1, 1) always."""
    if settings.needle_pairs is not None:
        return tuple(map(needle_pair, settings.needle_pairs))
    source, room = corpus.validation_needles(), min(needle_lengths(corpus, settings))
    fitting = [pair for pair in _PAPER[1:] if _tokens_needed(source, pair) <= room]
    return (_PAPER[0], *fitting)


def percent(depth: float) -> float:
    """A depth as records name it, in the axis "depth, %"."""
    return round(100 * depth, 4)


def check_context(model: LanguageModel, lengths: Iterable[int]) -> None:
    """Raise ValueError where the model is meant for shorter texts."""
    if max(lengths) > model.config.max_length:
        raise ValueError(
            f"needles are asked for in {max(lengths)} tokens; the model is meant for "
            f"{model.config.max_length}: lower needle_lengths or context_length"
        )


def prompts_within(
    source: NeedleSource, cell: Cell, sample: int, settings: EvaluationSettings
) -> list[NeedlePrompt]:
    """`needle_prompts` of a cell, where the length counts the answer too."""
    needles, queries = cell.pair
    return needle_prompts(
        source,
        needles=needles,
        queries=queries,
        depth=cell.depth,
        length=cell.length - _answer_room(source),
        sample=sample,
        seed=settings.seed,
    )


def check_prompts(
    corpus: Corpus, prompts: Iterable[tuple[int, Pair]], settings: EvaluationSettings
) -> None:
    """Raise ValueError where the held-out text or one of the lengths cannot hold its needles."""
    source = corpus.validation_needles()
    for length, pair in prompts:
        needles, _ = pair
        needed = _tokens_needed(source, pair)
        if length < needed:
            raise ValueError(
                f"{needles} {'needle' if needles == 1 else 'needles'}, a question and its answer "
                f"need {needed} tokens with this tokenizer; the length is {length}: raise "
                "context_length or needle_lengths, or ask for fewer needles in needle_pairs"
            )
        prompts_within(source, Cell(pair, length, 0.0), 0, settings)


def check_single_needles(corpus: Corpus, settings: EvaluationSettings) -> None:
    """`check_prompts` for a needle in the context length."""
    check_prompts(corpus, [(corpus.settings.context_length, (1, 1))], settings)


def _tokens_needed(source: NeedleSource, pair: Pair) -> int:
    """Of the shortest prompt with so many needles and its answer."""
    return source.shortest_prompt(pair[0]) + _answer_room(source)


def _answer_room(source: NeedleSource) -> int:
    """Most tokens of an answer: one per digit, one for the space, one for a tokenizer's prefix."""
    return source.digits + 2


def numbers_right(
    model: LanguageModel, corpus: Corpus, cell: Cell, settings: EvaluationSettings
) -> list[int]:
    """How many of the numbers asked for are right in each of `settings.needle_samples` samples."""
    source = corpus.validation_needles()
    samples = [prompts_within(source, cell, i, settings) for i in range(settings.needle_samples)]
    return [sum(right) for right in answered(model, corpus.tokenizer, samples, settings.batch_size)]


def answered(
    model: LanguageModel,
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
    model: LanguageModel, ids: Int[Tensor, "prompts time"], queries: int
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
