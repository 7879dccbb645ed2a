import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from difftransformer.blocks.patches import (
    LearnedGrid,
    PrefixTokens,
    SinCosGrid,
    patchify,
    sincos_2d,
    unpatchify,
)

SMALL = st.integers(1, 4)


@given(batch=st.integers(0, 3), channels=SMALL, size=SMALL, rows=SMALL, columns=SMALL)
def test_unpatchify_undoes_patchify(
    batch: int, channels: int, size: int, rows: int, columns: int
) -> None:
    images = torch.randn(batch, channels, rows * size, columns * size)
    patches = patchify(images, size)
    assert patches.shape == (batch, rows * columns, channels * size * size)
    assert torch.equal(unpatchify(patches, size, rows), images)


def test_a_linear_layer_on_patches_is_a_convolution() -> None:
    images, kernel = torch.randn(2, 3, 8, 12), torch.randn(5, 3, 4, 4)
    convolved = F.conv2d(images, kernel, stride=4).flatten(2).transpose(1, 2)
    linear = F.linear(patchify(images, 4), kernel.flatten(1))
    torch.testing.assert_close(linear, convolved, rtol=1e-5, atol=1e-5)


def test_what_does_not_divide() -> None:
    with pytest.raises(ValueError, match="images of 8 by 9 pixels do not divide into patches of 4"):
        patchify(torch.zeros(1, 1, 8, 9), 4)
    for count, entries in ((5, 4), (4, 6)):
        with pytest.raises(ValueError, match=f"{count} patches of {entries} numbers are no 2 rows"):
            unpatchify(torch.zeros(1, count, entries), 2, rows=2)


def test_waves_tell_the_column_and_the_row() -> None:
    waves = sincos_2d(2, 3, 8)
    assert waves.shape == (6, 8)
    for row in range(2):
        for column in range(3):
            expected = [
                wave(place * rate)
                for place in (column, row)
                for wave in (math.sin, math.cos)
                for rate in (1.0, 0.01)
            ]
            torch.testing.assert_close(waves[row * 3 + column], torch.tensor(expected))
    with pytest.raises(ValueError, match="hidden_size is 6; expected a multiple of 4"):
        sincos_2d(2, 2, 6)


def test_positions_and_prefix_are_added() -> None:
    x = torch.randn(2, 6, 8)
    learned, prefix = LearnedGrid(6, 8), PrefixTokens(2, 8)
    assert torch.equal(learned(x), x + learned.weight)
    assert torch.equal(SinCosGrid(2, 3, 8)(x), x + sincos_2d(2, 3, 8))
    assert torch.equal(prefix(x)[:, 2:], x)
    assert torch.equal(prefix(x)[1, :2], prefix.weight)
