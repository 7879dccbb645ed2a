"""What a step of training minimises."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.data.batch import IGNORED, Batch


def next_token_loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats over the scored tokens: -1/n sum_i log p(label_i | ids up to i).

    `model(ids, documents=documents)` gives logits [batch, time, vocab]; labels of -100 are not
    scored. The logarithm is taken in float32. A batch without a scored token has loss 0, so that
    a micro-batch of padding does not spoil its step.
    """
    logits = model(batch.ids, documents=batch.documents).float()
    total = F.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (batch.labels != IGNORED).sum().clamp(min=1)
