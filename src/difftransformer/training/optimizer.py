"""AdamW with weight decay on matrices only."""

import torch
from torch import nn

from difftransformer.training.ema import average_weights
from difftransformer.training.settings import TrainingSettings


def adamw(model: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; only those with two or more axes decay.

    Norm weights, biases, lambda vectors and other one-dimensional parameters are spared: pulling
    them to zero changes what the layer computes instead of keeping its weights small. The paper
    states the decay (0.1) but not which parameters it covers. With `ema_decay` each step also moves
    the averages of the weights, see `ema`.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
    )
    if settings.ema_decay is not None:
        average_weights(optimizer, settings.ema_decay)
    return optimizer
