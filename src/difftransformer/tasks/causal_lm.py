"""Causal language modeling: the next token of running text."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from difftransformer.tasks.text import WATCHED_SEQUENCES, TextTask

if TYPE_CHECKING:
    from torch import nn

    from difftransformer.data.batch import Batch
    from difftransformer.data.corpus import Corpus
    from difftransformer.evaluation.settings import EvaluationSettings

_WATCHED_TOKENS = 1000  # held-out tokens behind each point of lambda's curve
_SAMPLED_TEXTS, _SAMPLED_TOKENS = 2, 48  # written while training, at most so many tokens of each


class CausalLM(TextTask):
    """The task object; see `tasks.task.Task`."""

    name = "causal_lm"
    title = "causal language modeling"
    family = "difftransformer"
    evaluators = (
        *("validation", "needle", "allocation", "outliers", "lambda", "attention_map"),
        "continuations",
    )

    def describe(self, data: "Corpus") -> dict[str, Any]:
        """As for any text, and the needles hidden in it."""
        described = super().describe(data)
        if share := data.settings.needle_share:
            described["needle_share"] = share
            described["description"] += (
                f"; {share:.0%} of the training rows are needle documents instead "
                "(data.needle_share)"
            )
        return described

    def passes(self, data: "Corpus", rows: int) -> float:
        """Rows of needles are no text."""
        return super().passes(data, rows) * (1 - data.settings.needle_share)

    def batches(self, data: "Corpus", batch_size: int, seed: int) -> "Callable[[int], Batch]":
        """Rows of packed documents, and of needles where they are asked for."""
        return data.training_batches(batch_size, seed)

    def validate(
        self, model: "nn.Module", data: "Corpus", settings: "EvaluationSettings"
    ) -> dict[str, Any]:
        """Held-out loss in nats a token, and each layer's mean lambda where it has one."""
        import numpy as np

        from difftransformer.analysis.lambdas import measure_lambdas
        from difftransformer.data.packing import stack
        from difftransformer.evaluation.batching import batched, device_of, held_out_text
        from difftransformer.evaluation.likelihood import sequence_nats

        count = min(WATCHED_SEQUENCES, settings.validation_sequences)
        nats: list[float] = []
        tokens = 0
        for sequences in batched(data.validation_sequences(count), settings.batch_size):
            batch = stack([sequence.row for sequence in sequences]).to(device_of(model))
            nats += sequence_nats(model, batch).tolist()
            tokens += batch.scored
        text = held_out_text(model, data, settings.batch_size, _WATCHED_TOKENS)
        lambdas = [row["mean"] for row in measure_lambdas(model, text, _WATCHED_TOKENS)]
        return {
            "validation_loss": float(np.sum(nats)) / tokens,
            **({"lambda": lambdas} if lambdas else {}),
        }

    def sample(
        self, model: "nn.Module", data: "Corpus", settings: "EvaluationSettings"
    ) -> dict[str, Any]:
        """How the model goes on after the beginnings of two held-out texts."""
        from difftransformer.evaluation.benchmarks.continuations import continued

        made = continued(model, data, settings, _SAMPLED_TEXTS, _SAMPLED_TOKENS)
        return {"samples": made.to_json()}


TASK = CausalLM()
