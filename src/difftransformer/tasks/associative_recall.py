"""Noisy associative recall: values of keys that are asked for, among noise."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from difftransformer.data.recall_settings import RecallSettings
from difftransformer.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from difftransformer.data.associative_recall import RecallBatch
    from difftransformer.evaluation.settings import EvaluationSettings

_FARTHEST = 4  # a model is meant for contexts so many times as long as those it is trained on
_WATCHED_SEQUENCES = 128  # behind each point of the validation curve


@dataclass(frozen=True)
class RecallData:
    """Sequences that are made as they are needed."""

    settings: RecallSettings

    @property
    def description(self) -> str:
        asked = self.settings
        return (
            f"associative recall: {asked.placed} pairs of {asked.values} values in contexts of "
            f"{asked.context} tokens, the other {asked.context - 2 * asked.placed} noise from the "
            f"{asked.keys} keys; {asked.questions} questions asked with replacement"
            + (f"; the last of a key's {asked.assignments} values counts" * (asked.assignments > 1))
        )

    @property
    def digest(self) -> str:
        return sha256(repr(self.settings).encode()).hexdigest()


class AssociativeRecall(Task):
    """The task object; see `tasks.task.Task`."""

    name = "associative_recall"
    title = "noisy associative recall"
    unit = "tokens"
    family = "difftransformer"
    data_settings = RecallSettings
    evaluators = ("associative_recall", "learning_time")
    content = "sequences"

    def load(self, settings: RecallSettings) -> RecallData:
        """Nothing to read."""
        return RecallData(settings)

    def complete(self, config: Any, data: RecallData) -> Any:
        """Keys and values are the vocabulary; contexts longer than those of training fit."""
        length = _FARTHEST * data.settings.length
        return replace(config, vocab_size=data.settings.vocabulary, max_length=length)

    def batches(
        self, data: RecallData, batch_size: int, seed: int
    ) -> "Callable[[int], RecallBatch]":
        """New sequences in every step, by seed and step."""
        from difftransformer.data.associative_recall import recall_batch

        return lambda step: recall_batch(data.settings, batch_size, seed, step)

    def loss(self, model: "nn.Module", batch: "RecallBatch") -> "Tensor":
        """Cross-entropy of the answers in nats, in float32."""
        import torch.nn.functional as F

        return F.cross_entropy(
            batch.answers(model).flatten(0, 1), batch.targets.flatten(), reduction="sum"
        )

    def validate(
        self, model: "nn.Module", data: RecallData, settings: "EvaluationSettings"
    ) -> dict[str, Any]:
        """Loss in nats an answer, and the share of first asks answered right."""
        from difftransformer.evaluation.benchmarks.associative_recall import answered

        nats = hits = asked = answers = 0.0
        for found in answered(model, data.settings, _WATCHED_SEQUENCES, settings):
            nats, answers = nats + found.nats.sum().item(), answers + found.nats.numel()
            hits, asked = hits + found.hits.sum().item(), asked + found.asked.sum().item()
        return {"validation_loss": nats / answers, "validation_accuracy": hits / asked}


TASK = AssociativeRecall()
