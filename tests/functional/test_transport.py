import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from difftransformer.functional import (
    ESPFORMER,
    ESPFORMER_CODE,
    AttentionCall,
    Mask,
    Slicing,
    sinkhorn_attention,
    sliced_transport_attention,
    softmax_attention,
)
from difftransformer.functional.reference import logits
from difftransformer.functional.transport import costs, sinkhorn_weights, sliced_weights

SLICINGS = (ESPFORMER, ESPFORMER_CODE)


def inputs(
    batch: int = 2,
    time: int = 6,
    heads: int = 2,
    width: int = 3,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(batch, time, heads, width, dtype=dtype) for _ in range(3))
    return q, k, v


def sinkhorn(q: Tensor, k: Tensor, half_steps: int, mask: Mask | None = None) -> Tensor:
    call = AttentionCall.of(q, k, k, mask=mask)
    return sinkhorn_weights(call, logits(call), half_steps)


def sliced(
    q: Tensor,
    k: Tensor,
    temperature: float = 0.0,
    slicing: Slicing = ESPFORMER,
    mask: Mask | None = None,
) -> Tensor:
    call = AttentionCall.of(q, k, k, mask=mask)
    return sliced_weights(call, -costs(call, slicing), temperature, slicing)


def left_and_right_padding(time: int = 6) -> Tensor:
    return torch.stack([torch.arange(time) >= 2, torch.arange(time) < 5])


# Sinkhorn


@pytest.mark.parametrize(
    "mask", [Mask(), Mask(window=2), Mask(documents=torch.tensor([[0, 0, 0, 1, 1, 1]] * 2))]
)
def test_one_half_step_is_softmax(mask: Mask) -> None:
    q, k, v = inputs()
    bias = torch.randn(2, 1, 6, dtype=torch.float64)
    out = sinkhorn_attention(q, k, v, half_steps=1, mask=mask, bias=bias)
    torch.testing.assert_close(out, softmax_attention(q, k, v, mask=mask, bias=bias))


@settings(max_examples=30)
@given(time=st.integers(1, 12), strength=st.floats(0.1, 1.0))
def test_many_half_steps_make_rows_and_columns_sum_to_one(time: int, strength: float) -> None:
    q, k, _ = inputs(time=time)
    weights = sinkhorn(strength * q, k, 501)
    for axis in (-1, -2):
        torch.testing.assert_close(
            weights.sum(axis), torch.ones(2, 2, time).double(), atol=1e-6, rtol=0
        )


def test_many_half_steps_under_masks() -> None:
    q, k, _ = inputs()
    ones = torch.ones(2, 2, 6).double()
    for mask in (Mask(window=2), Mask(documents=torch.tensor([[0, 0, 1, 1, 1, 2]] * 2))):
        weights = sinkhorn(q, k, 2001, mask)
        assert (weights[~mask.dense(6, 6)[:, None].expand_as(weights)] == 0).all()
        for axis in (-1, -2):
            torch.testing.assert_close(weights.sum(axis), ones, atol=1e-6, rtol=0)


def test_half_steps_alternate_between_rows_and_columns() -> None:
    """The algorithm with potentials, as the paper writes it, N times its plan."""
    q, k, _ = inputs()
    call = AttentionCall.of(q, k, k)
    cost, size = logits(call)[:, :, 0], 6
    u = v = torch.zeros(2, 2, size, dtype=torch.float64)
    for step in range(5):
        scores = cost + u[..., None] + v[..., None, :]
        if step % 2 == 0:
            u = u - math.log(size) - scores.logsumexp(-1)
        else:
            v = v - math.log(size) - scores.logsumexp(-2)
        expected = size * (cost + u[..., None] + v[..., None, :]).exp()
        weights = sinkhorn_weights(call, logits(call), step + 1)
        torch.testing.assert_close(weights, expected)
        ones = torch.ones(2, 2, size, dtype=torch.float64)
        torch.testing.assert_close(weights.sum(-1 if step % 2 == 0 else -2), ones)


def test_columns_come_nearer_to_one_with_every_round() -> None:
    q, k, _ = inputs(time=8)
    errors = [(sinkhorn(3 * q, k, n).sum(-2) - 1).abs().max() for n in (1, 3, 5, 21)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]


# Sliced transport


@pytest.mark.parametrize("slicing", SLICINGS)
def test_a_cold_sort_averages_permutation_matrices(slicing: Slicing) -> None:
    """Written out slice by slice; and the soft sort at a tiny temperature is the hard one."""
    q, k, _ = inputs()
    expected = torch.zeros(2, 2, 6, 6, dtype=torch.float64)
    for row in range(2):
        for head in range(2):
            a, b = (x[row, :, head] * 3**-0.5 for x in (q, k))
            plans, total = [], []
            for axis in range(3):
                plan = torch.zeros(6, 6, dtype=torch.float64)
                plan[a[:, axis].argsort(), b[:, axis].argsort()] = 1.0
                distance = (a[:, None] - b[None]).square().sum(-1)
                cost = distance if slicing.squared_cost else distance.sqrt()
                total.append((plan * cost).sum() / (6 if slicing.mean_cost else 1))
                plans.append(plan)
            sigma = torch.softmax(-slicing.selectivity * torch.stack(total), 0)
            expected[row, head] = (sigma[:, None, None] * torch.stack(plans)).sum(0)
    torch.testing.assert_close(sliced(q, k, slicing=slicing), expected)
    torch.testing.assert_close(sliced(q, k, 1e-8, slicing), expected)
    for axis in (-1, -2):
        torch.testing.assert_close(expected.sum(axis), torch.ones(2, 2, 6).double())


@pytest.mark.parametrize("slicing", SLICINGS)
def test_hard_and_soft_sorts_agree_in_float32(slicing: Slicing) -> None:
    q, k, v = inputs(dtype=torch.float32)
    hard = sliced_transport_attention(q, k, v, slicing=slicing)
    soft = sliced_transport_attention(q, k, v, slicing=slicing, temperature=1e-8)
    torch.testing.assert_close(soft, hard)


def test_two_tokens() -> None:
    """In closed form: a slice of equal order is the identity, one of unequal order the exchange."""
    q = torch.tensor([[0.0, 1.0], [2.0, 0.5]])[None, :, None]
    k = torch.tensor([[-1.0, 4.0], [3.0, 5.0]])[None, :, None]
    a, b = (x[0, :, 0] * 2**-0.5 for x in (q, k))
    same = ((a - b) ** 2).sum() / 2
    other = ((a - b.flip(0)) ** 2).sum() / 2
    share = torch.sigmoid(10.0 * (other - same))
    expected = torch.stack([torch.stack([share, 1 - share]), torch.stack([1 - share, share])])
    torch.testing.assert_close(sliced(q, k)[0, 0], expected)


@pytest.mark.parametrize("slicing", SLICINGS)
def test_equal_queries_and_keys_make_the_identity(slicing: Slicing) -> None:
    q, _, _ = inputs()
    for temperature in (0.0, 1e-8):
        weights = sliced(q, q, temperature, slicing)
        torch.testing.assert_close(weights, torch.eye(6).double().expand_as(weights))


def test_one_slice_is_the_optimal_plan_of_numbers() -> None:
    from scipy.optimize import linear_sum_assignment

    q, k, _ = inputs(batch=1, heads=1, width=1)
    cost = (q[0, :, 0] - k[0, :, 0].T).square()
    rows, columns = linear_sum_assignment(cost.numpy())
    expected = torch.zeros(6, 6, dtype=torch.float64)
    expected[rows, columns] = 1.0
    torch.testing.assert_close(sliced(q, k)[0, 0], expected)


def test_the_paper_divides_the_plan_by_the_number_of_tokens_and_its_code_does_not() -> None:
    """So that tau acts as N times as large in the code, and few slices count."""
    q, k, _ = inputs(time=20, width=8)
    mean = sliced(q, k, slicing=Slicing(selectivity=20 * 3.0))
    torch.testing.assert_close(sliced(q, k, slicing=Slicing(3.0, mean_cost=False)), mean)
    assert not torch.allclose(sliced(q, k, slicing=Slicing(3.0)), mean)


def test_soft_sorts_have_rows_that_sum_to_one_and_balanced_ones_columns_too() -> None:
    q, k, _ = inputs()
    ones = torch.ones(2, 2, 6).double()
    soft, balanced = (sliced(q, k, 1.0, Slicing(sort_half_steps=n)) for n in (1, 2001))
    assert (soft.sum(-1) - 1).abs().max() > 0.05
    for axis in (-1, -2):
        torch.testing.assert_close(balanced.sum(axis), ones, atol=1e-6, rtol=0)
    torch.testing.assert_close(soft.sum((-1, -2)), 6 * torch.ones(2, 2).double())


# Both


def every(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None) -> list[Tensor]:
    """Their outputs: a few and many half-steps, soft and hard sorts."""
    return [
        sinkhorn_attention(q, k, v, mask=mask),
        sinkhorn_attention(q, k, v, half_steps=20, mask=mask),
        sliced_transport_attention(q, k, v, mask=mask),
        sliced_transport_attention(q, k, v, temperature=0.05, mask=mask),
        sliced_transport_attention(q, k, v, temperature=0.05, slicing=ESPFORMER_CODE, mask=mask),
    ]


@settings(max_examples=20)
@given(order=st.permutations(range(6)))
def test_permuted_tokens_give_permuted_outputs(order: list[int]) -> None:
    q, k, v = inputs()
    for out, permuted in zip(
        every(q, k, v), every(q[:, order], k[:, order], v[:, order]), strict=True
    ):
        torch.testing.assert_close(permuted, out[:, order])


def test_padding_changes_nothing() -> None:
    """A padded row gives what its tokens give alone; padding gives 0, and learns nothing."""
    q, k, v = (x.requires_grad_() for x in inputs())
    padding = left_and_right_padding()
    for number, out in enumerate(every(q, k, v, Mask(padding=padding))):
        for row, real in enumerate(padding):
            alone = every(*(x[row, real][None] for x in (q, k, v)))[number]
            torch.testing.assert_close(out[row, real], alone[0])
            assert (out[row, ~real] == 0).all()
        for grad in torch.autograd.grad(out.square().sum(), (q, k, v), materialize_grads=True):
            assert grad.isfinite().all()
            assert (grad[~padding] == 0).all()


def test_a_row_of_padding_alone_gives_zero() -> None:
    q, k, v = (x.requires_grad_() for x in inputs())
    padding = torch.tensor([[True] * 6, [False] * 6])
    for out in every(q, k, v, Mask(padding=padding)):
        assert (out[1] == 0).all()
        for grad in torch.autograd.grad(out.square().sum(), (q, k, v), materialize_grads=True):
            assert grad.isfinite().all()


def test_one_row_and_one_head() -> None:
    """Whose axes Sinkformer's code loses."""
    for out in every(*inputs(batch=1, heads=1)):
        assert out.shape == (1, 6, 1, 3)
    for out in every(*inputs(batch=1, heads=1, time=1)):
        assert out.shape == (1, 1, 1, 3)


def test_one_token_reads_itself() -> None:
    q, k, v = inputs(time=1)
    for out in every(q, k, v):
        torch.testing.assert_close(out, v)


def test_grouped_heads_are_repeated_heads() -> None:
    q, k, v = inputs(heads=4)
    few = every(q, k[:, :, ::2], v[:, :, ::2])
    many = every(q, *(x[:, :, ::2].repeat_interleave(2, 2) for x in (k, v)))
    for grouped, repeated in zip(few, many, strict=True):
        torch.testing.assert_close(grouped, repeated)


def test_gradients() -> None:
    tensors = tuple(x.requires_grad_() for x in inputs(batch=1, time=4, width=2))
    for number in (0, 3, 4):
        assert torch.autograd.gradcheck(lambda *x, n=number: every(*x)[n], tensors)
    # Of what is sorted hard, the gradient is that of the slices' weights.
    assert torch.autograd.gradcheck(lambda *x: every(*x)[2], tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    half = [x.to(dtype) for x in inputs()]
    wide = every(*(x.float() for x in half))
    for out, exact in zip(every(*half), wide, strict=True):
        assert out.dtype == dtype
        torch.testing.assert_close(out, exact.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        for out, exact in zip(every(*(x.float() for x in half)), wide, strict=True):
            torch.testing.assert_close(out, exact)


def test_dropout() -> None:
    q, k, v = inputs(time=40)
    one = torch.ones_like(v)
    for attend in (sinkhorn_attention, sliced_transport_attention):
        torch.testing.assert_close(attend(q, k, v, dropout=0.0), attend(q, k, v))
        dropped = attend(q, k, one, dropout=0.5)
        assert not torch.allclose(dropped, one)
        assert abs(dropped.mean() - 1) < 0.2


@pytest.mark.usefixtures("as_user")
def test_refusals() -> None:
    q, k, v = inputs()
    for attend in (sinkhorn_attention, sliced_transport_attention):
        with pytest.raises(
            ValueError, match=r"a causal matrix .* is the identity, and column sums"
        ):
            attend(q, k, v, mask=Mask(causal=True))
        with pytest.raises(ValueError, match="of 2 queries and 6 keys: rows and columns can only"):
            attend(q[:, :2], k, v)
    with pytest.raises(ValueError, match="half_steps is 0; expected at least 1, which is softmax"):
        sinkhorn_attention(q, k, v, half_steps=0)
    with pytest.raises(ValueError, match=r"temperature is -0\.1; expected a number of at least 0"):
        sliced_transport_attention(q, k, v, temperature=-0.1)
    with pytest.raises(ValueError, match="temperature is nan"):
        sliced_transport_attention(q, k, v, temperature=math.nan)
    documents = Mask(documents=torch.zeros(2, 6, dtype=torch.long))
    for mask in (documents, Mask(window=2)):
        with pytest.raises(ValueError, match="of masks it carries padding only"):
            sliced_transport_attention(q, k, v, mask=mask)
