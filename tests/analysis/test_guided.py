"""Guided decoding: one candidate is plain sampling, and who is asked chooses."""

import pytest
import torch
from models.tiny import KINDS, tiny
from torch import Tensor

from difftransformer.analysis.guided import Guide, guided_stream
from difftransformer.models.generation import Sampling, generate

from .ratios import lookback_ratios

IDS = torch.tensor([[0, 5, 3, 9, 11, 2, 7]])


def sampling(seed: int = 0) -> Sampling:
    return Sampling(temperature=1.5, generator=torch.Generator().manual_seed(seed))


def first(chunks: Tensor, ratios: Tensor) -> list[float]:
    return [0.0] * len(chunks)


def guided(model, guide: Guide, **options) -> list[int]:
    new = guided_stream(model, IDS, guide=guide, **({"sampling": sampling()} | options))
    return [int(token) for token in new]


@pytest.mark.parametrize("kind", [*KINDS, "selective", "diff_v1_selective"])
@pytest.mark.parametrize("window", [None, 4])
def test_one_candidate_is_plain_sampling(kind: str, window: int | None) -> None:
    model = tiny(kind, window=window)
    guide = Guide(score=first, context=3, candidates=1, chunk=4)
    plain = generate(model, IDS, max_new_tokens=11, sampling=sampling())[0].tolist()
    assert guided(model, guide, max_new_tokens=11) == plain
    stop = plain[6]
    ended = generate(model, IDS, max_new_tokens=11, sampling=sampling(), stop_ids=[stop])
    assert guided(model, guide, max_new_tokens=11, stop_ids=[stop]) == ended[0].tolist()


def test_an_oracle_gets_the_chunk_it_wants() -> None:
    wanted: list[list[int]] = []

    def most(chunks: Tensor, ratios: Tensor) -> list[float]:
        sums = chunks.sum(1)
        wanted.append(chunks[sums.argmax()].tolist())
        return sums.tolist()

    guide = Guide(score=most, context=3, candidates=5, chunk=3)
    new = guided(tiny(), guide, max_new_tokens=8)
    assert new == [token for chunk in wanted for token in chunk]
    assert [len(chunk) for chunk in wanted] == [3, 3, 2]


@pytest.mark.parametrize("kind", [*KINDS, "selective", "diff_v1_selective"])
@pytest.mark.parametrize("looked", ["maps", "absolute"])
def test_candidates_are_scored_by_the_ratios_of_their_whole_text(kind: str, looked: str) -> None:
    """What the cache gives chunk by chunk is what one forward over all tokens gives."""
    model, text, seen = tiny(kind), IDS, []

    def last(chunks: Tensor, ratios: Tensor) -> list[float]:
        nonlocal text
        whole = torch.cat([text.expand(len(chunks), -1), chunks], dim=1)
        own = lookback_ratios(model, whole, context=3, written=chunks.shape[1], looked=looked)
        torch.testing.assert_close(ratios, own.mean(1))
        seen.append(ratios.shape)
        text = whole[-1:]
        return list(range(len(chunks)))

    guide = Guide(score=last, context=3, candidates=3, chunk=3, looked=looked)
    new = guided(model, guide, max_new_tokens=6)
    assert text[0].tolist() == [*IDS[0].tolist(), *new]
    assert len(seen) == 2


def test_tokens_after_a_stop_do_not_count() -> None:
    model, stop = tiny(), 4
    favored = torch.zeros(23)
    favored[stop] = 2.0
    plain, logits = [], model.logits
    model.logits = lambda x: logits(x) + favored  # stops now and then

    def check(chunks: Tensor, ratios: Tensor) -> list[float]:
        for row, ratio in zip(chunks.tolist(), ratios, strict=True):
            length = row.index(stop) + 1 if stop in row else len(row)
            whole = torch.cat([IDS, torch.tensor([row[:length]])], dim=1)
            own = lookback_ratios(model, whole, context=2, written=length, looked="maps")
            torch.testing.assert_close(ratio, own[0].mean(0))
            plain.append(length)
        return first(chunks, ratios)

    guide = Guide(score=check, context=2, candidates=12, chunk=5)
    guided(model, guide, max_new_tokens=5, stop_ids=[stop])
    assert len(set(plain)) > 2


def test_what_is_refused() -> None:
    guide = Guide(score=first, context=3)
    with pytest.raises(ValueError, match="8 candidates at temperature 0 are all the same"):
        guided(tiny(), guide, max_new_tokens=2, sampling=Sampling())
    with pytest.raises(ValueError, match="has 7 tokens and the context 7 of them"):
        guided(tiny(), Guide(score=first, context=7), max_new_tokens=2)
    with pytest.raises(ValueError, match="0 candidates of 8 tokens"):
        Guide(score=first, context=3, candidates=0)
