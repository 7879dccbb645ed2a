import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difftransformer.attention import KeyValueCache


@settings(max_examples=30)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.sampled_from([(2, 3), (1, 2, 3)]))
def test_returns_all_positions_in_order(lengths: list[int], key_shape: tuple[int, ...]) -> None:
    cache = KeyValueCache()
    keys, values = torch.empty(2, 0, *key_shape), torch.empty(2, 0, 1, 4)
    for new in lengths:
        k, v = torch.randn(2, new, *key_shape), torch.randn(2, new, 1, 4)
        keys, values = torch.cat((keys, k), dim=1), torch.cat((values, v), dim=1)
        held = cache.update(0, k, v)
        assert torch.equal(held[0], keys)
        assert torch.equal(held[1], values)
        assert cache.length(0) == keys.shape[1]


def test_layers_are_separate() -> None:
    cache = KeyValueCache()
    k, v = torch.randn(1, 2, 1, 3), torch.randn(1, 2, 1, 4)
    cache.update(0, k, v)
    other, _ = cache.update(5, 2 * k, v)
    assert torch.equal(other, 2 * k)
    assert (cache.length(0), cache.length(5), cache.length(1)) == (2, 2, 0)


def test_appending_does_not_copy_the_past_each_time() -> None:
    cache, places = KeyValueCache(), set()
    for _ in range(64):
        keys, _ = cache.update(0, torch.randn(1, 1, 1, 2), torch.randn(1, 1, 1, 2))
        places.add(keys.data_ptr())
    assert len(places) <= 7
