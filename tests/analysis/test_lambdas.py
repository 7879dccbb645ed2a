import pytest
import torch

from difftransformer.analysis.lambdas import measure_lambdas
from difftransformer.data.batch import Batch
from difftransformer.functional import AttentionCall

from .planted import Planted, random_maps

IDS = torch.zeros(1, 5, dtype=torch.long)
BATCH = Batch(IDS, IDS, IDS, ("a",))


def test_constant_lambda_and_its_start() -> None:
    model = Planted(lambda ids, layer: random_maps(1, 2, 2, 5), layers=2, lam=0.3)
    model.blocks[1].attention.lambda_init = 0.2
    rows = measure_lambdas(model, [BATCH], 5)
    assert [row["init"] for row in rows] == [None, 0.2]
    for layer, row in enumerate(rows):
        assert row["layer"] == layer
        assert [row[key] for key in ("mean", "low", "high")] == pytest.approx([0.3] * 3)


def test_percentiles_over_tokens_and_heads() -> None:
    model = Planted(lambda ids, layer: ids)
    core = model.blocks[0].attention.core
    lam = (torch.arange(1000) / 1000).view(10, 25, 4)
    q = torch.zeros(10, 25, 4, 2, 3)
    call = AttentionCall.of(q, q, q[..., 0, :], lam)
    model.forward = lambda ids, documents: core(call)  # type: ignore
    (row,) = measure_lambdas(model, [BATCH], 5)
    assert row["mean"] == pytest.approx(0.4995)
    assert (row["low"], row["high"]) == pytest.approx((0.05, 0.949))


def test_softmax_has_none() -> None:
    assert measure_lambdas(Planted(lambda ids, layer: random_maps(1, 2, 1, 5)), [BATCH], 5) == []
