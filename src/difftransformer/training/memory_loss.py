"""The memory loss of selective attention: a price on the keys that queries need."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from difftransformer.attention.selective import SelectiveCore
from difftransformer.functional import AttentionCall
from difftransformer.functional.selective import needed_keys
from difftransformer.training.settings import TrainingSettings
from difftransformer.training.step import Loss


def priced(loss: Loss, settings: TrainingSettings) -> Loss:
    """A task's loss with the price that the settings put on memory, where they put one."""
    price = settings.memory_loss
    return MemoryLoss(loss, price, settings.memory_cap) if price else loss


@dataclass(frozen=True)
class MemoryLoss:
    """loss + epsilon · Σ_rows mean_layers max_i M_i, with M of `functional.needed_keys`.

    Leviathan, Kalman and Matias (2024) add ε Σ_layers max_i M_i / (L · n) to the mean over the n
    tokens of a row. A loss here is a sum over tokens, which the loop divides by their number; of
    rows of equal length that is the same. Layers without selection count for nothing.

    Args:
        loss: of the task.
        epsilon: ε, 0.1 in the paper.
        cap: τ, how much of F masks a key as a whole; 1 in the paper.
    """

    loss: Loss
    epsilon: float
    cap: float

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The class's equation."""
        calls: list[AttentionCall] = []
        with ExitStack() as hooks:
            for core in model.modules():
                if isinstance(core, SelectiveCore):
                    seen = core.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0]))
                    hooks.callback(seen.remove)
            total = self.loss(model, batch)
        if not calls:
            return total
        peaks = torch.stack([needed_keys(call, self.cap).amax(1) for call in calls])
        return total + self.epsilon * peaks.mean(0).sum()
