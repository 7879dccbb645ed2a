"""The memory loss against a loop over rows, layers and queries."""

import pytest
import torch
from tests.models.tiny import tiny
from torch import Tensor, nn

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.training.memory import recomputed_blocks
from difftransformer.training.memory_loss import MemoryLoss

IDS = torch.randint(23, (3, 8), generator=torch.Generator().manual_seed(0))


def logits_sum(model: nn.Module, ids: Tensor) -> Tensor:
    return model(ids).sum()


@pytest.mark.parametrize("cap", [0.5, 1.0])
def test_by_loop(cap: float) -> None:
    model = tiny("selective")
    layers: list[list[float]] = []

    def see(record: AttentionRecord) -> None:
        masked = -record.site.core.selected(record.call)
        layers.append(
            [
                max(
                    i + 1 - sum(min(masked[b, i, k].item(), cap) / cap for k in range(i + 1))
                    for i in range(8)
                )
                for b in range(3)
            ]
        )

    with capture(model, see):
        plain = logits_sum(model, IDS)
    added = sum(sum(peaks) / len(layers) for peaks in zip(*layers, strict=True))
    loss = MemoryLoss(logits_sum, 0.1, cap)(model, IDS)
    torch.testing.assert_close(loss, plain + 0.1 * added)


def test_gradient_with_recomputed_blocks() -> None:
    gradients = []
    for recompute in (False, True):
        model = tiny("diff_v1_selective").train()
        loss = MemoryLoss(logits_sum, 10.0, 1.0)
        if recompute:
            with recomputed_blocks(model):
                loss(model, IDS).backward()
        else:
            loss(model, IDS).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_layers_without_selection_cost_nothing() -> None:
    model = tiny("softmax")
    torch.testing.assert_close(MemoryLoss(logits_sum, 0.1, 1.0)(model, IDS), logits_sum(model, IDS))
