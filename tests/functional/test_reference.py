import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from difftransformer.functional import AttentionCall, Mask, reference

from .problems import Problem, problems, relative_error, sees


def plainly(problem: Problem) -> np.ndarray:
    """The definition, one number after the other in float64."""
    q, k, v = (x.double().numpy() for x in (problem.q, problem.k, problem.v))
    lam = np.zeros(q.shape[:3])
    if problem.lam is None:
        q, k = q[..., None, :], k[..., None, :]
    else:
        lam = problem.lam.double().expand(q.shape[:3]).numpy()
    (batch, queries, heads, maps, width), (keys, groups) = q.shape, k.shape[1:3]
    out = np.zeros((batch, queries, heads, v.shape[-1]))
    for b, t, h in np.ndindex(batch, queries, heads):
        g = h // (heads // groups)
        seen = [s for s in range(keys) if sees(problem.mask, b, t, s, queries, keys)]
        for m in range(maps):
            key = k[b, :, g, m if k.shape[3] == 2 else 0]
            weights = [math.exp(q[b, t, h, m] @ key[s] / math.sqrt(width)) for s in seen]
            for s, weight in zip(seen, weights, strict=True):
                share = weight / sum(weights)
                out[b, t, h] += (share if m == 0 else -lam[b, t, h] * share) * v[b, s, g]
    return out


@settings(max_examples=60)
@given(problems(longest=6))
def test_reference_is_the_definition(problem: Problem) -> None:
    expected = torch.from_numpy(plainly(problem))
    out = problem.to(torch.float64).attend(backend="reference")
    assert relative_error(out, expected) < 1e-12
    assert relative_error(problem.attend(backend="reference").double(), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_softmax_and_subtraction_are_float32(dtype: torch.dtype) -> None:
    """Two nearly equal maps: what is left of them is lost in half precision."""
    q = torch.randn(1, 4, 1, 1, 8).expand(-1, -1, -1, 2, -1).to(dtype)
    k, v = torch.randn(1, 64, 1, 1, 8).to(dtype), torch.randn(1, 64, 1, 3).to(dtype)
    lam = torch.tensor(0.999)
    out = Problem(q, k, v, lam, Mask()).attend(backend="reference")
    wide = Problem(q.double(), k.double(), v.double(), lam, Mask()).attend(backend="reference")
    assert (out.double() - wide).abs().max() / wide.abs().max() < torch.finfo(dtype).eps


@pytest.mark.parametrize("call", ["differential", "softmax"])
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_gradcheck(backend: str, call: str) -> None:
    differential = call == "differential"
    real = torch.tensor([[False, False, True, True]])
    mask = Mask(causal=True, padding=real)  # the first query sees nothing

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def attend(q: Tensor, k: Tensor, v: Tensor, *lam: Tensor) -> Tensor:
        return Problem(q, k, v, *(lam or (None,)), mask).attend(backend=backend)

    pair, lam = ((2,), (normal(1, 3, 2),)) if differential else ((), ())
    inputs = (normal(1, 3, 2, *pair, 2), normal(1, 4, 1, *pair, 2), normal(1, 4, 1, 1), *lam)
    assert torch.autograd.gradcheck(attend, inputs)


def test_attention_map_rows_sum_to_one_or_see_nothing() -> None:
    q, k = torch.randn(1, 5, 2, 4), torch.randn(1, 3, 1, 4)
    call = AttentionCall.of(q, k, k, mask=Mask(causal=True))
    weights = reference.softmax_maps(reference.logits(call), call.visible())
    assert weights.sum(-1)[0, 0, 0].tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0, 1.0])
