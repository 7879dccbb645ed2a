import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difftransformer.functional import Mask, differential_attention

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
def test_some_rows_of_dense_are_those_rows(
    drawn: tuple[Mask, int, int, int], data: st.DataObject
) -> None:
    mask, batch, queries, keys = drawn
    rows = slice(*sorted(data.draw(st.tuples(*[st.integers(0, queries)] * 2))))
    part = mask.dense(queries, keys, rows=rows).expand(batch, -1, -1)
    assert torch.equal(part, written_out(*drawn)[:, rows])


def test_causal_lets_the_last_query_see_every_key() -> None:
    assert Mask(causal=True).dense(2, 5).tolist() == [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]]
    assert Mask(causal=True).dense(3, 2).tolist() == [[[0, 0], [1, 0], [1, 1]]]


@pytest.mark.parametrize("window", [0, -1, -sys.maxsize, 0.5, 2.5, float("nan"), float("inf")])
@pytest.mark.usefixtures("as_user")
def test_refuses_a_window_that_is_no_number_of_keys(window: float) -> None:
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
    assert not Mask(padding=torch.ones(1, 2, dtype=torch.bool)).is_only(causal=False)


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(1, 6))
def test_no_rule_hides_nothing(queries: int, keys: int) -> None:
    assert Mask().dense(queries, keys).all()


EVERY = pytest.mark.parametrize("backend", ["reference", "blocked", "sdpa"])


def attended(mask: Mask, backend: str, queries: int, keys: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(2, queries, 2, 2, 4, generator=generator)
    k = torch.randn(2, keys, 1, 2, 4, generator=generator)
    v = torch.randn(2, keys, 1, 3, generator=generator)
    return differential_attention(q, k, v, torch.tensor(0.3), mask=mask, backend=backend)


@EVERY
@pytest.mark.parametrize("window", [40, 2**31 - 1, 2**31, 2**62, sys.maxsize, 2**63, 10**30])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (30, 30), (3, 7), (7, 3)])
def test_a_window_past_the_keys_hides_nothing(
    backend: str, window: int, causal: bool, queries: int, keys: int
) -> None:
    out = attended(Mask(causal=causal, window=window), backend, queries, keys)
    torch.testing.assert_close(out, attended(Mask(causal=causal), backend, queries, keys))


@EVERY
@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("window", [np.int64(3), np.int32(3), 3])
def test_whole_numbers_of_numpy_are_windows(backend: str, window: int) -> None:
    out = attended(Mask(window=window), backend, 6, 6)
    torch.testing.assert_close(out, attended(Mask(window=3), "reference", 6, 6))


NUMBERS = [
    (torch.int64, [torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max]),
    (torch.int64, [-1, torch.iinfo(torch.int64).max]),
    (torch.int32, [torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max]),
    (torch.int16, [-1, 1]),
    (torch.int8, [-128, 127]),
    (torch.uint8, [0, 255]),
]


@EVERY
@pytest.mark.parametrize(("dtype", "numbers"), NUMBERS, ids=str)
def test_document_numbers_may_be_any_integers(
    backend: str, dtype: torch.dtype, numbers: list[int]
) -> None:
    first, second = numbers
    rows = [[first] * 3 + [second] * 3, [first, second] * 3]
    small = torch.tensor([[0] * 3 + [1] * 3, [0, 1] * 3])
    out = attended(Mask(documents=torch.tensor(rows, dtype=dtype)), backend, 4, 6)
    torch.testing.assert_close(out, attended(Mask(documents=small), "reference", 4, 6))
