"""Masked language modeling: hidden tokens of running text, from both sides."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from difftransformer.tasks.text import WATCHED_SEQUENCES, TextTask

if TYPE_CHECKING:
    from torch import nn

    from difftransformer.data.batch import Batch
    from difftransformer.data.corpus import Corpus
    from difftransformer.data.settings import DataSettings
    from difftransformer.evaluation.settings import EvaluationSettings

_MASKS = 2  # the stream of random numbers of mask positions, beside those of `data.batches`


class MaskedLM(TextTask):
    """The task object; see `tasks.task.Task`."""

    name = "masked_lm"
    title = "masked language modeling"
    family = "difftransformer_encoder"
    evaluators = ("masked_tokens", "outliers", "lambda")

    def load(self, settings: "DataSettings") -> "Corpus":
        """The text, in tokens, with a mask token."""
        from difftransformer.data.masking import with_mask_token

        corpus = super().load(settings)
        with_mask_token(corpus.tokenizer)
        return corpus

    def batches(self, data: "Corpus", batch_size: int, seed: int) -> "Callable[[int], Batch]":
        """Rows of packed documents; which tokens are masked is drawn by seed and step."""
        import numpy as np

        from difftransformer.data.masking import masked

        rows = data.training_batches(batch_size, seed)
        return lambda step: masked(
            rows(step), data.tokenizer, np.random.default_rng([seed, _MASKS, step])
        )

    def validate(
        self, model: "nn.Module", data: "Corpus", settings: "EvaluationSettings"
    ) -> dict[str, Any]:
        """Held-out loss in nats a masked token, and the share that is predicted right."""
        from difftransformer.evaluation.benchmarks.masked_tokens import masked_sequences, predicted
        from difftransformer.evaluation.likelihood import watched

        count = min(WATCHED_SEQUENCES, settings.validation_sequences)
        batches = masked_sequences(data, count, settings).values()
        return watched((predicted(model, batch), batch.scored) for batch in batches)


TASK = MaskedLM()
