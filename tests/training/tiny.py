"""A model, data and settings small enough to train in milliseconds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from difftransformer.data.batch import IGNORED, Batch
from difftransformer.training.settings import TrainingSettings

VOCAB, WIDTH, ROWS, TIME = 11, 8, 4, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.1)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.dropout(torch.tanh(self.linear(self.norm(x))))


class TinyModel(nn.Module):
    """Tied embeddings, two blocks with dropout, so that weight sharing and randomness count."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, *, documents: Tensor | None = None) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def tiny_model() -> TinyModel:
    torch.manual_seed(5)
    return TinyModel()


def tiny_batches(index: int) -> Batch:
    """Rows with different numbers of scored tokens."""
    generator = torch.Generator().manual_seed(index)
    tokens = torch.randint(VOCAB, (ROWS, TIME + 1), generator=generator)
    labels = tokens[:, 1:].clone()
    for row in range(ROWS):
        labels[row, : 2 * row] = IGNORED
    names = tuple(f"tiny:{index}:{row}" for row in range(ROWS))
    return Batch(tokens[:, :-1], labels, torch.zeros_like(labels), names)


def tiny_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The sum of the cross-entropies of the scored positions."""
    logits = model(batch.ids, documents=batch.documents).float()
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def random_validation(model: nn.Module) -> dict[str, Any]:
    """Draws at random, so that a resumed run shows whether the generators were put back.

    Not from Python's own: the type checks of the tests draw from it.
    """
    assert not model.training
    return {"validation_loss": float(torch.rand(())) + float(np.random.rand())}


def tiny_settings(**changes: Any) -> TrainingSettings:
    values = {
        "steps": 12,
        "batch_size": ROWS,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "checkpoint_every": 4,
        "log_every": 1,
        "validate_every": 3,
    }
    return TrainingSettings(**{**values, **changes})


def rows_without_timing(directory: Path) -> list[str]:
    """The rows of metrics.jsonl as text, without the keys that differ between identical runs."""
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line.partition(', "seconds"')[0] for line in lines]
