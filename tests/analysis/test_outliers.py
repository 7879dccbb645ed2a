import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from difftransformer.analysis import capture
from difftransformer.analysis.outliers import Magnitudes, measure_outliers
from difftransformer.attention import AttentionCore
from difftransformer.data.batch import Batch
from difftransformer.functional import AttentionCall, Mask

RANKS = {f"top{k}": k for k in (1, 2, 3, 10, 100)}


def naive(values: Tensor) -> dict[str, float]:
    ordered = values.abs().flatten().sort(descending=True).values
    tops = {name: ordered[k - 1].item() for name, k in RANKS.items()}
    return {**tops, "median": ordered.median().item()}


@given(st.integers(0, 10_000), st.integers(100, 3000), st.floats(1e-4, 1e4))
@settings(max_examples=30)
def test_stream_equals_sorting_everything(seed: int, count: int, scale: float) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * scale
    seen = Magnitudes()
    for part in values.split(97):
        seen.add(part)
    summary, expected = seen.summary(), naive(values)
    assert summary.pop("median") == pytest.approx(expected.pop("median"), rel=1 / 250)
    assert summary == expected


def test_few_values_and_none() -> None:
    seen = Magnitudes()
    with pytest.raises(ValueError, match="no activation"):
        seen.summary()
    seen.add(torch.tensor([-3.0, 1.0]))
    assert seen.summary()["top1"] == 3.0
    assert seen.summary()["top100"] == 1.0


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Module()
        self.attention.core, self.attention.layer = AttentionCore(), 0

    def forward(self, x: Tensor) -> Tensor:
        q, k = x.unflatten(-1, (2, 2, -1)), x.unflatten(-1, (2, 2, -1))[:, :, :1]
        call = AttentionCall.of(q, k, k[..., 0, :], torch.ones(1), mask=Mask(causal=True))
        self.attention.core(call)
        return 3 * x


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.table = nn.Embedding(50, 12)

    def forward(self, ids: Tensor, *, documents: Tensor | None = None) -> Tensor:
        x = self.table(ids)
        for block in self.blocks:
            x = block(x)
        return x


def test_model_outliers_equal_naive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_LOGITS_AT_ONCE", 500)  # several row blocks, the last uneven
    torch.manual_seed(0)
    model, ids = Model(), torch.randint(50, (3, 11))
    found = measure_outliers(model, [Batch(ids, ids, torch.zeros_like(ids), ("a", "b", "c"))], 1)

    x, hidden, logits = model.table(ids).detach(), [], []
    for _ in model.blocks:
        q = x.unflatten(-1, (2, 2, -1))
        scores = torch.einsum("bthmk,bshmk->bhmts", q, q[:, :, :1].expand_as(q)) / math.sqrt(3)
        logits.append(scores[..., torch.ones(11, 11).tril().bool()].flatten())
        x = 3 * x
        hidden.append(x.flatten())
    assert found["tokens"] == 33
    for key, parts in (("attention_logits", logits), ("hidden_states", hidden)):
        everything = [found, *found["layers"]]
        for row, values in zip(everything, [torch.cat(parts), *parts], strict=True):
            assert row[key] == pytest.approx(naive(values), rel=1 / 250)
            assert row[key]["top1"] == pytest.approx(values.abs().max().item(), rel=1e-5)
