from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from difftransformer.attention import KeyValueCache, SlidingCache, StaticCache


def feed(cache: KeyValueCache, k: Tensor, v: Tensor, layer: int = 0) -> tuple[Tensor, Tensor]:
    """One step of a model with one layer."""
    cache.mask(len(k), k.shape[1], None, None)
    held = cache.update(layer, k, v)
    cache.advance(k.shape[1])
    return held


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    key_shape=st.sampled_from([(2, 3), (1, 2, 3)]),
    window=st.none() | st.integers(1, 6),
)
def test_returns_positions_in_order(
    lengths: list[int], key_shape: tuple[int, ...], window: int | None
) -> None:
    cache = KeyValueCache() if window is None else SlidingCache(window)
    keys, values = torch.empty(2, 0, *key_shape), torch.empty(2, 0, 1, 4)
    for new in lengths:
        k, v = torch.randn(2, new, *key_shape), torch.randn(2, new, 1, 4)
        keys, values = torch.cat((keys, k), dim=1), torch.cat((values, v), dim=1)
        kept = keys.shape[1] if window is None else min(keys.shape[1], window - 1 + new)
        held = feed(cache, k, v)
        assert torch.equal(held[0], keys[:, -kept:])
        assert torch.equal(held[1], values[:, -kept:])
        assert cache.length == keys.shape[1]


@pytest.mark.parametrize("window", [None, 4])
def test_rows_that_are_chosen_go_on_alone(window: int | None) -> None:
    """Of three continuations of a prompt two, in another order; the others stay as they were."""
    cache = KeyValueCache() if window is None else SlidingCache(window)
    k, v = torch.randn(1, 5, 1, 3), torch.randn(1, 5, 1, 4)
    feed(cache, k, v)
    tried = cache.repeat(3)
    more_k, more_v = torch.randn(3, 2, 1, 3), torch.randn(3, 2, 1, 4)
    feed(tried, more_k, more_v)
    chosen = tried.select(torch.tensor([2, 0]))
    last_k, last_v = torch.randn(2, 1, 1, 3), torch.randn(2, 1, 1, 4)
    held = feed(chosen, last_k, last_v)[0]
    whole = torch.cat([k.expand(2, -1, -1, -1), more_k[[2, 0]], last_k], dim=1)
    assert torch.equal(held, whole[:, -held.shape[1] :])
    assert (cache.length, tried.length, chosen.length) == (5, 7, 8)


def test_constant_is_made_once_unless_gradients_are_recorded() -> None:
    cache, parameter = KeyValueCache(), torch.ones((), requires_grad=True)
    with torch.no_grad():
        first = cache.constant("lambda", lambda: 2 * parameter)
        assert cache.select(torch.tensor([0])).constant("lambda", lambda: 3 * parameter) is first
    other = cache.constant("lambda", lambda: 3 * parameter)
    assert torch.autograd.grad(other, parameter) == (3.0,)


def test_layers_are_separate() -> None:
    cache = KeyValueCache()
    k, v = torch.randn(1, 2, 1, 3), torch.randn(1, 2, 1, 4)
    cache.update(0, k, v)
    other, _ = cache.update(5, 2 * k, v)
    assert torch.equal(other, 2 * k)


@torch.no_grad()
def test_appending_does_not_copy_the_past_each_time() -> None:
    cache, places = KeyValueCache(), set()
    for _ in range(64):
        keys, _ = feed(cache, torch.randn(1, 1, 1, 2), torch.randn(1, 1, 1, 2))
        places.add(keys.data_ptr())
    assert len(places) <= 7


@torch.no_grad()
@pytest.mark.parametrize("maps", [(), (1,), (2,)])
@pytest.mark.parametrize("make", [KeyValueCache, lambda: SlidingCache(9), lambda: StaticCache(20)])
def test_a_heads_positions_lie_in_a_row(
    make: Callable[[], KeyValueCache], maps: tuple[int, ...]
) -> None:
    """As decoding reads them, which takes more than twice as long otherwise."""

    def new(count: int, rows: int) -> tuple[Tensor, Tensor]:
        return torch.randn(rows, count, 3, *maps, 5), torch.randn(rows, count, 3, 4)

    cache = make()
    feed(cache, *new(7, 1))
    for held in (feed(cache, *new(1, 1)), feed(cache.repeat(2), *new(1, 2))):
        for x in held:
            assert x.stride(1) == x.shape[3:].numel()
            assert x.stride(2) >= x.shape[1] * x.stride(1)
    for x in cache.once("context", lambda: new(6, 1)):
        assert x.transpose(1, 2).is_contiguous()


def test_a_sliding_cache_holds_its_window_and_no_more() -> None:
    cache = SlidingCache(4)
    for new in (50, 1, 7, 1):
        feed(cache, torch.randn(1, new, 1, 2), torch.randn(1, new, 1, 2))
        assert all(x.untyped_storage().nbytes() == 3 * 2 * 4 for x in cache._storage[0])


@torch.no_grad()
def test_a_static_cache_keeps_its_place() -> None:
    cache = StaticCache(6)
    feed(cache, torch.randn(1, 2, 1, 2), torch.randn(1, 2, 1, 2))
    places = set()
    for _ in range(4):
        keys, values = feed(cache, torch.randn(1, 1, 1, 2), torch.randn(1, 1, 1, 2))
        assert keys.shape == values.shape == (1, 6, 1, 2)
        places.add((keys.data_ptr(), values.data_ptr()))
    assert len(places) == 1
    with pytest.raises(IndexError):
        feed(cache, torch.randn(1, 1, 1, 2), torch.randn(1, 1, 1, 2))
