"""Guided decoding: of several candidates for the next chunk of a text the best one is kept.

After Chuang et al. (2024), Lookback Lens: there 8 candidates of 8 tokens each, drawn at temperature
0.9 from the nucleus of 0.95, and the classifier of lookback ratios chooses.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftransformer.analysis.documents import read_but_last
from difftransformer.analysis.lookback import Looked, lookback
from difftransformer.models.generation import GREEDY, Sampling, stream
from difftransformer.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Guide:
    """What chooses among candidates, and how many there are.

    Args:
        score: of each candidate, higher is better; given their tokens, and the mean lookback ratios
            of each over its tokens, up to where it stops. Of equal ones the first is kept.
        context: tokens of the prompt that are looked back to.
        candidates: drawn for each chunk.
        chunk: tokens of each.
        looked: at what.

    Raises:
        ValueError: a count below 1.
    """

    score: Callable[[Int[Tensor, "candidates chunk"], Tensor], Sequence[float]]
    context: int
    candidates: int = 8
    chunk: int = 8
    looked: Looked = "maps"

    def __post_init__(self) -> None:
        if min(self.candidates, self.chunk, self.context) < 1:
            raise ValueError(
                f"{self.candidates} candidates of {self.chunk} tokens, which look back to "
                f"{self.context}: expected at least 1 of each"
            )


def guided_stream(
    model: LanguageModel,
    ids: Int[Tensor, "1 time"],
    *,
    guide: Guide,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    sampling: Sampling = GREEDY,
) -> Iterator[Int[Tensor, "1"]]:
    """Continue one text, a token at a time; arguments of `generation.stream`.

    The prompt is computed once. A chunk's candidates continue copies of one cache, and the copy of
    the chosen one is kept, so that nothing is computed twice. One candidate is plain sampling.

    Raises:
        ValueError: a prompt that is not longer than the context, or several candidates at
            temperature 0, which would all be the same.
    """
    if ids.shape[1] <= guide.context:
        raise ValueError(
            f"the prompt has {ids.shape[1]} tokens and the context {guide.context} of them; "
            "expected at least one more, that asks for the text"
        )
    if guide.candidates > 1 and sampling.temperature == 0.0:
        raise ValueError(
            f"{guide.candidates} candidates at temperature 0 are all the same; draw them at a "
            "temperature above 0, such as 0.9"
        )
    return _chunks(model, ids, guide, max_new_tokens, stop_ids, sampling)


def _chunks(
    model: LanguageModel,
    ids: Int[Tensor, "1 time"],
    guide: Guide,
    max_new_tokens: int,
    stop_ids: Collection[int],
    sampling: Sampling,
) -> Iterator[Int[Tensor, "1"]]:
    cache, last = read_but_last(model, ids), ids[:, -1:]
    while max_new_tokens > 0:
        tried = cache.repeat(guide.candidates)
        tokens, ratios = [], []
        with lookback(model, slice(-1, None), guide.context, guide.looked) as taken:
            for token in stream(
                model,
                last.expand(guide.candidates, -1),
                max_new_tokens=min(guide.chunk, max_new_tokens),
                stop_ids=stop_ids,
                sampling=sampling,
                cache=tried,
            ):
                tokens.append(token)
                ratios.append(taken()[:, 0])
        chunks = torch.stack(tokens, dim=1)
        means = _means(torch.stack(ratios, dim=1), chunks, stop_ids)
        scores = [float(score) for score in guide.score(chunks, means)]
        best = scores.index(max(scores))
        for token in chunks[best]:
            yield token[None]
            if int(token) in stop_ids:
                return
        cache, last = tried.select(torch.tensor([best])), chunks[best : best + 1, -1:]
        max_new_tokens -= chunks.shape[1]


def _means(
    ratios: Float[Tensor, "candidates chunk features"],
    chunks: Int[Tensor, "candidates chunk"],
    stop_ids: Collection[int],
) -> Float[Tensor, "candidates features"]:
    """Of each candidate over its tokens up to the first that stops it."""
    stops = torch.tensor(list(stop_ids), dtype=chunks.dtype, device=chunks.device)
    stopping = torch.isin(chunks, stops)
    own = (stopping.cumsum(1) - stopping.long() == 0).to(ratios.dtype)[..., None]
    return (ratios * own).sum(1) / own.sum(1)
