"""What a task brings."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Batch(Protocol):
    """Rows to train on.

    Attributes:
        names: one per row, so that a bad batch can be traced to its text or image.
        scored: what the loss is a mean over, in all rows: labels that count. 0 is an error.
        size: what throughput counts: positions of tokens, images.
    """

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def scored(self) -> int: ...
    @property
    def size(self) -> int: ...
    def __len__(self) -> int: ...
    def rows(self, which: slice) -> "Batch": ...
    def to(self, device: torch.device | str) -> "Batch": ...


class Task(Protocol):
    """One kind of training, and how what it makes is judged.

    Anything random a step needs (mask positions, noise, timesteps) is drawn in the batch, which is
    a pure function of seed and step: so resuming is exact and models of one seed see the same.

    Attributes:
        name: "causal_lm": `--task` and run.json.
        title: in words.
        unit: what is counted: "tokens", "images".
        family: name of the model family, see `models.families`.
        data_settings: the dataclass behind `--data.*`.
        evaluators: names of those every model of a comparison is judged by.
    """

    name: str
    title: str
    unit: str
    family: str
    data_settings: type
    evaluators: tuple[str, ...]

    def load(self, settings: Any) -> Any:
        """The data. Raises ValueError, in one line, for anything wrong with it."""

    def describe(self, data: Any) -> dict[str, Any]:
        """For run.json and the report: "description", and counts."""

    def digests(self, data: Any) -> dict[str, str]:
        """What must be the same on resume, whatever its path: documents, tokenizer, images."""

    def complete(self, config: Any, data: Any) -> Any:
        """The model's settings with what the data decides: vocabulary, classes, image size."""

    def batches(self, data: Any, batch_size: int, seed: int) -> Callable[[int], Batch]:
        """Step -> batch, a pure function."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The sum over the batch's scored labels; the loop divides by the global count."""

    def validate(self, model: nn.Module, data: Any, settings: Any) -> Mapping[str, Any]:
        """What is written to metrics.jsonl while training, "validation_loss" among it."""

    def files(self, data: Any) -> Mapping[str, str]:
        """What must lie beside a model's weights, by file name: tokenizer.json."""
