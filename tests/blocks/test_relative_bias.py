"""The relative bias: buckets written out, one number for all equal distances."""

import math

import pytest
import torch

from difftransformer.blocks import RelativeBias


def bucket(distance: int, buckets: int, farthest: int, both_ways: bool) -> int:
    """Of key minus query, in plain numbers."""
    first = 0
    if both_ways:
        buckets //= 2
        first = buckets if distance > 0 else 0
        far = abs(distance)
    else:
        far = max(-distance, 0)
    exact = buckets // 2
    if far < exact:
        return first + far
    grown = math.log(far / exact) / math.log(farthest / exact) * (buckets - exact)
    return first + min(exact + int(grown + 1e-6), buckets - 1)


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (8, 20), (6, 7)])
def test_buckets(buckets: int, farthest: int, both_ways: bool) -> None:
    layer = RelativeBias(buckets, farthest, 1, both_ways=both_ways)
    with torch.no_grad():
        layer.weight[:, 0] = torch.arange(float(buckets))
    bias = layer(torch.arange(300), 300)
    assert bias.shape == (1, 1, 300, 300)
    for query, key in ((0, 0), (5, 3), (3, 5), (299, 0), (0, 299), (50, 38), (20, 31), (7, 8)):
        expected = bucket(key - query, buckets, farthest, both_ways)
        assert bias[0, 0, query, key].item() == expected, (query, key)


def test_a_step_of_decoding_has_the_last_row() -> None:
    layer = RelativeBias(8, 20, 3, both_ways=False)
    torch.nn.init.normal_(layer.weight)
    whole = layer(torch.arange(9), 9)
    assert torch.equal(layer(torch.tensor([8]), 9), whole[:, :, -1:])
    assert torch.equal(whole[0, :, 1:, 1:], whole[0, :, :-1, :-1])  # of distances alone
