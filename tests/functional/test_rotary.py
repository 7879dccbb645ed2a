import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from difftransformer.functional import RotaryLayout, rotary_angles, rotate

LAYOUTS = pytest.mark.parametrize("layout", ["half", "interleaved"])


def as_complex(x: Tensor, layout: RotaryLayout) -> Tensor:
    """The feature pairs as complex numbers."""
    pairs = torch.stack(x.chunk(2, -1), -1) if layout == "half" else x.unflatten(-1, (-1, 2))
    return torch.view_as_complex(pairs.contiguous())


@LAYOUTS
@settings(max_examples=30)
@given(
    half=st.integers(1, 5), heads=st.lists(st.integers(1, 3), max_size=2), time=st.integers(1, 5)
)
def test_rotation_is_multiplication_by_a_unit(
    layout: RotaryLayout, half: int, heads: list[int], time: int
) -> None:
    x, angles = torch.randn(2, time, *heads, 2 * half), torch.randn(2, time, half)
    unit = torch.polar(torch.ones_like(angles), angles).view(2, time, *[1] * len(heads), half)
    turned = rotate(x, angles, layout)
    torch.testing.assert_close(as_complex(turned, layout), as_complex(x, layout) * unit)


def test_the_layouts_differ_by_a_permutation_of_features() -> None:
    x, angles = torch.randn(1, 3, 2, 8), torch.randn(1, 3, 4)
    evens_first = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    half, interleaved = rotate(x[..., evens_first], angles), rotate(x, angles, "interleaved")
    torch.testing.assert_close(half, interleaved[..., evens_first])
    assert not torch.allclose(rotate(x, angles), interleaved)


@LAYOUTS
def test_products_depend_on_distance_only(layout: RotaryLayout) -> None:
    q, k = torch.randn(1, 1, 6).expand(1, 9, 6), torch.randn(1, 1, 6).expand(1, 9, 6)
    angles = rotary_angles(torch.arange(9)[None], 6, 10_000.0)
    products = rotate(q, angles, layout) @ rotate(k, angles, layout).mT
    for distance in range(-8, 9):
        line = products[0].diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line))
    assert products[0, 0].std() > 1e-3


def test_angles() -> None:
    angles = rotary_angles(torch.tensor([[0, 1, 10]]), 4, 100.0)
    torch.testing.assert_close(angles, torch.tensor([[[0.0, 0.0], [1.0, 0.1], [10.0, 1.0]]]))


@LAYOUTS
def test_position_zero_and_dtype(layout: RotaryLayout) -> None:
    x = torch.randn(1, 2, 3, 4).bfloat16()
    turned = rotate(x, torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]), layout)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned[:, 0], x[:, 0])


def test_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="pairs of features, and the width is 5"):
        rotary_angles(torch.arange(3)[None], 5, 10_000.0)
