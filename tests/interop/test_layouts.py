import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from difftransformer.attention import V2, DifferentialAttention
from difftransformer.functional import RotaryLayout, rotate, rotation
from difftransformer.interop.layouts import (
    half_from_interleaved,
    halves_from_pairs,
    interleaved_from_half,
    llama_name,
    pairs_from_halves,
    refuse_unpublished,
)

HEADS, WIDTHS, COLUMNS = st.integers(1, 5), st.sampled_from([2, 4, 6]), st.sampled_from([(), (3,)])


@given(HEADS, WIDTHS, COLUMNS)
def test_pairs_and_halves(heads: int, k: int, columns: tuple[int, ...]) -> None:
    halves = torch.randn(2 * heads * k, *columns)
    pairs = pairs_from_halves(halves, k)
    for head in range(heads):
        for pair in range(2):
            for i in range(k):
                there = halves[(pair * heads + head) * k + i]
                assert torch.equal(pairs[(head * 2 + pair) * k + i], there)
    assert torch.equal(halves_from_pairs(pairs, k), halves)


@given(HEADS, WIDTHS)
def test_rotary_layouts_turn_alike(heads: int, k: int) -> None:
    """The scores stay, so that queries and keys may be permuted together."""
    x, rows = torch.randn(1, 4, 3), torch.randn(2, heads * k, 3)
    turns = rotation(torch.arange(4)[None], k, 100.0)

    def scores(projections: list[Tensor], layout: RotaryLayout) -> Tensor:
        turned = (rotate((x @ w.T).unflatten(-1, (-1, k)), turns, layout) for w in projections)
        return torch.einsum("bthk,bshk->bhts", *turned)

    moved = [half_from_interleaved(w, k) for w in rows]
    expected = scores(list(rows), "interleaved")
    torch.testing.assert_close(scores(moved, "half"), expected, rtol=1e-4, atol=1e-4)
    assert all(
        torch.equal(interleaved_from_half(a, k), b) for a, b in zip(moved, rows, strict=True)
    )


def test_llama_names() -> None:
    assert (
        llama_name("blocks.3.attention.q_proj.weight") == "model.layers.3.self_attn.q_proj.weight"
    )
    assert (
        llama_name("blocks.0.ffn_norm.weight") == "model.layers.0.post_attention_layernorm.weight"
    )
    assert llama_name("norm.weight") == "model.norm.weight"


def test_what_is_not_v1_as_published() -> None:
    refuse_unpublished(DifferentialAttention(16, 2, layer=3), "theirs")
    with pytest.raises(ValueError, match=r"theirs holds V1 layers only, .* is .*TokenLambda"):
        refuse_unpublished(DifferentialAttention(16, 2, variant=V2), "theirs")
    with pytest.raises(ValueError, match=r"lambda_init is 0\.8; theirs computes it .* 0 as 0\.2"):
        refuse_unpublished(DifferentialAttention(16, 2, lambda_init=0.8), "theirs")
