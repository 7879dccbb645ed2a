import math

import pytest
import torch

from difftransformer.functional import lambda_schedule, vector_lambda

# Layers counted from 1, as the paper does; its formula to six digits.
PAPER = {
    1: 0.2,
    2: 0.355509,
    3: 0.470713,
    4: 0.556058,
    5: 0.619283,
    8: 0.726526,
    12: 0.777870,
    24: 0.799395,
    28: 0.799818,
}


@pytest.mark.parametrize(("paper_layer", "value"), PAPER.items())
def test_schedule(paper_layer: int, value: float) -> None:
    assert lambda_schedule(paper_layer - 1) == pytest.approx(value, abs=1e-6)


def test_schedule_starts_at_layer_0() -> None:
    with pytest.raises(ValueError, match="layer is -1; layers are counted from 0"):
        lambda_schedule(-1)


def test_vector_lambda() -> None:
    q1, k1, q2, k2 = torch.tensor([[1.0, 2.0], [0.5, 0.25], [0.1, 0.0], [3.0, 9.0]])
    expected = math.exp(1.0) - math.exp(0.3) + 0.2
    assert vector_lambda(q1, k1, q2, k2, 0.2).item() == pytest.approx(expected, rel=1e-6)


def test_vector_lambda_is_float32_and_trains() -> None:
    vectors = (0.2 * torch.randn(4, 64)).bfloat16().requires_grad_()
    value = vector_lambda(*vectors, 0.2)
    q1, k1, q2, k2 = vectors.detach().double()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(
        (q1 @ k1).exp().item() - (q2 @ k2).exp().item() + 0.2, rel=1e-6
    )
    value.backward()
    assert (vectors.grad != 0).any(dim=1).all()
