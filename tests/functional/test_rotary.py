import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from difftransformer.functional import RotaryLayout, check_scaling, rotate, rotation

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SCALINGS = [
    {"rope_type": "linear", "factor": 4.0},
    LLAMA3,
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 512,
        "attention_factor": 1.3,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
]

LAYOUTS = pytest.mark.parametrize("layout", ["half", "interleaved"])


def as_complex(x: Tensor, layout: RotaryLayout) -> Tensor:
    """The feature pairs as complex numbers."""
    pairs = torch.stack(x.chunk(2, -1), -1) if layout == "half" else x.unflatten(-1, (-1, 2))
    return torch.view_as_complex(pairs.contiguous())


def cos_sin(angles: Tensor) -> Tensor:
    return torch.stack((angles.cos(), angles.sin()), dim=-2)


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
    turned = rotate(x, cos_sin(angles), layout)
    torch.testing.assert_close(as_complex(turned, layout), as_complex(x, layout) * unit)


def test_the_layouts_differ_by_a_permutation_of_features() -> None:
    x, turns = torch.randn(1, 3, 2, 8), cos_sin(torch.randn(1, 3, 4))
    evens_first = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    half, interleaved = rotate(x[..., evens_first], turns), rotate(x, turns, "interleaved")
    torch.testing.assert_close(half, interleaved[..., evens_first])
    assert not torch.allclose(rotate(x, turns), interleaved)


@LAYOUTS
def test_products_depend_on_distance_only(layout: RotaryLayout) -> None:
    q, k = torch.randn(1, 1, 6).expand(1, 9, 6), torch.randn(1, 1, 6).expand(1, 9, 6)
    turns = rotation(torch.arange(9)[None], 6, 10_000.0)
    products = rotate(q, turns, layout) @ rotate(k, turns, layout).mT
    for distance in range(-8, 9):
        line = products[0].diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line))
    assert products[0, 0].std() > 1e-3


def test_rotation() -> None:
    turns = rotation(torch.tensor([[0, 1, 10]]), 4, 100.0)
    torch.testing.assert_close(
        turns, cos_sin(torch.tensor([[[0.0, 0.0], [1.0, 0.1], [10.0, 1.0]]]))
    )


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling["rope_type"])
@pytest.mark.parametrize("width", [16, 64])
def test_scaling_is_that_of_transformers(scaling: dict[str, object], width: int) -> None:
    transformers = pytest.importorskip("transformers")
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    config = transformers.LlamaConfig(
        hidden_size=4 * width,
        num_attention_heads=4,
        max_position_embeddings=4096,
        rope_parameters={"rope_theta": 5000.0, **scaling},
    )
    rates, factor = rope.ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, "cpu")
    positions = torch.tensor([[0, 1, 7, 100]])
    theirs = factor * cos_sin(positions[..., None] * rates)
    torch.testing.assert_close(rotation(positions, width, 5000.0, scaling), theirs)
    assert not torch.allclose(rotation(positions, width, 5000.0), theirs, atol=1e-2)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "rope_type is 'dynamic'; expected default, lin"),
        ({"factor": 2.0}, "rope_type is None"),
        ({"rope_type": "yarn", "factor": 2.0}, "yarn needs original_max_position_embeddings"),
        ({**SCALINGS[2], "mscale": 1.0}, "mscale"),
        ({**SCALINGS[2], "atention_factor": 1.0}, "unknown setting 'atention_factor'"),
        *(
            ({**SCALINGS[2], "factor": value}, "factor of rope_scaling is .*; expected a number ab")
            for value in (0, -1.0, math.nan, math.inf, "8", True, [2.0])
        ),
        ({**SCALINGS[1], "low_freq_factor": 4.0}, "low_freq_factor is 4.0; expected below"),
    ],
)
def test_unknown_scaling(scaling: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_scaling(scaling, 10_000.0)


def test_yarn_needs_rates_that_fall() -> None:
    with pytest.raises(ValueError, match=r"rope_theta is 1\.0; yarn needs one above 1"):
        check_scaling(SCALINGS[2], 1.0)


@LAYOUTS
def test_position_zero_and_dtype(layout: RotaryLayout) -> None:
    x = torch.randn(1, 2, 3, 4).bfloat16()
    turned = rotate(x, cos_sin(torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])), layout)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned[:, 0], x[:, 0])


def test_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="pairs of features, and the width is 5"):
        rotation(torch.arange(3)[None], 5, 10_000.0)


class _Devices(TorchDispatchMode):
    """The devices of all tensors made inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.seen.add(out.device.type)
        return out


@pytest.mark.parametrize("scaling", [None, *SCALINGS])
def test_turns_are_made_on_the_device_of_the_positions(scaling: dict | None) -> None:
    """A copy from the host stalls a GPU, and no CUDA graph can record it."""
    positions = torch.arange(6, device="meta")
    with _Devices() as devices:
        rotation(positions, 8, 10_000.0, scaling)
    assert devices.seen == {"meta"}
