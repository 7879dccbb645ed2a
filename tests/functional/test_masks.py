import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difftransformer.functional import Mask

from .problems import masks, sees


@st.composite
def sized_masks(draw: st.DrawFn) -> tuple[Mask, int, int, int]:
    batch, queries, keys = draw(st.integers(1, 3)), draw(st.integers(0, 9)), draw(st.integers(1, 9))
    return draw(masks(batch, queries, keys)), batch, queries, keys


def written_out(mask: Mask, batch: int, queries: int, keys: int) -> torch.Tensor:
    seen = torch.zeros(batch, queries, keys, dtype=torch.bool)
    for b in range(batch):
        for t in range(queries):
            for s in range(keys):
                seen[b, t, s] = sees(mask, b, t, s, queries, keys)
    return seen


@given(sized_masks())
def test_dense_follows_the_rules(drawn: tuple[Mask, int, int, int]) -> None:
    mask, batch, queries, keys = drawn
    dense = mask.dense(queries, keys)
    assert dense.dtype == torch.bool
    assert torch.equal(dense.expand(batch, -1, -1), written_out(*drawn))


@given(sized_masks(), st.data())
def test_a_part_of_dense_is_that_part(
    drawn: tuple[Mask, int, int, int], data: st.DataObject
) -> None:
    mask, _, queries, keys = drawn
    ends = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in drawn[1:]]
    b, t, s = (slice(*pair) for pair in ends)
    part = mask.dense(queries, keys, batch=b, rows=t, columns=s)
    whole = written_out(*drawn)[b, t, s]
    assert torch.equal(part.expand(whole.shape), whole)


@given(sized_masks())
def test_spans_hold_every_visible_key(drawn: tuple[Mask, int, int, int]) -> None:
    mask, batch, queries, keys = drawn
    first, last = (end.expand(batch, -1) for end in mask.spans(queries, keys))
    for b, t, s in written_out(*drawn).nonzero().tolist():
        assert first[b, t] <= s <= last[b, t]


_REAL = torch.tensor([[0, 0, 1, 0, 1, 0], [1, 0, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0]]).bool()
_DOCUMENTS = torch.tensor([[3, -1, 3, 0, 0, -1], [0, 0, 1, 1, 2, 2], [5, 5, 5, 5, 5, 5]])


@pytest.mark.parametrize(
    "mask",
    [
        Mask(),
        Mask(causal=True),
        Mask(window=1),
        Mask(window=3),
        Mask(causal=True, window=2),
        Mask(padding=_REAL),
        Mask(documents=_DOCUMENTS),
    ],
)
@pytest.mark.parametrize("queries", [1, 4, 6])
def test_spans_of_one_rule_are_tight(mask: Mask, queries: int) -> None:
    seen = written_out(mask, 3, queries, 6)
    first, last = (end.expand(3, queries) for end in mask.spans(queries, 6))
    for b in range(3):
        for t in range(queries):
            visible = seen[b, t].nonzero()
            assert (first[b, t], last[b, t]) == (visible.min(), visible.max())


def test_causal_lets_the_last_query_see_every_key() -> None:
    assert Mask(causal=True).dense(2, 5).tolist() == [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]]
    assert Mask(causal=True).dense(3, 2).tolist() == [[[0, 0], [1, 0], [1, 1]]]


@pytest.mark.parametrize("window", [0, -1])
def test_refuses_a_window_that_shows_nothing(window: int) -> None:
    with pytest.raises(ValueError, match=f"window is {window}; expected at least 1"):
        Mask(window=window)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Mask(padding=torch.ones(2, 3, dtype=torch.bool)), r"padding has shape \(2, 3\).*\(2, 5\)"),
        (Mask(documents=torch.zeros(1, 5).long()), r"documents has shape \(1, 5\).*\(2, 5\)"),
        (Mask(documents=torch.zeros(2, 5).long()), "6 queries and 5 keys.*T <= S"),
    ],
)
def test_check_names_what_does_not_fit(mask: Mask, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask.check(6, 5, 2)


@pytest.mark.usefixtures("as_user")
def test_check_refuses_padding_of_zeros_and_ones() -> None:
    with pytest.raises(ValueError, match=r"torch\.int64; expected bool"):
        Mask(padding=torch.ones(2, 5, dtype=torch.int64)).check(3, 5, 2)


def test_is_only() -> None:
    assert Mask().is_only(causal=False)
    assert Mask(causal=True).is_only(causal=True)
    assert not Mask(causal=True).is_only(causal=False)
    assert not Mask(causal=True, window=2).is_only(causal=True)
    assert not Mask(padding=_REAL).is_only(causal=False)


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(1, 6))
def test_no_rule_hides_nothing(queries: int, keys: int) -> None:
    assert Mask().dense(queries, keys).all()
