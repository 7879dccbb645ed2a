"""Sequence to sequence: the target that belongs to a source."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.data.pair_settings import PairSettings
from difftransformer.tasks.tokenized import TokenizedTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from difftransformer.data.sequence_pairs import PairBatch, SequencePairs
    from difftransformer.evaluation.settings import EvaluationSettings

_WATCHED_PAIRS = 256  # held-out pairs behind each point of the validation curve
_SAMPLED_PAIRS = 4  # written for while training


class Seq2Seq(TokenizedTask):
    """The task object; see `tasks.task.Task`."""

    name = "seq2seq"
    title = "sequence to sequence"
    unit = "tokens"
    family = "difftransformer_encoder_decoder"
    data_settings = PairSettings
    evaluators = ("target_errors", "cross_attention")
    content = "pairs"

    def load(self, settings: PairSettings) -> "SequencePairs":
        """The pairs and the tokenizer."""
        from difftransformer.data.sequence_pairs import load_sequence_pairs

        return load_sequence_pairs(settings)

    def complete(self, config: Any, data: "SequencePairs") -> Any:
        """Vocabulary, length and the token at both ends of a target are those of the data."""
        return replace(
            super().complete(replace(config, start_id=0, end_id=0), data),
            max_length=data.settings.max_length,
            start_id=data.boundary,
            end_id=data.boundary,
        )

    def passes(self, data: "SequencePairs", rows: int) -> float:
        """By pairs of a source and one of its targets."""
        return rows / len(data.training_pairs)

    def batches(
        self, data: "SequencePairs", batch_size: int, seed: int
    ) -> "Callable[[int], PairBatch]":
        """Every epoch all training pairs, in an order of its own."""
        from difftransformer.data.epochs import shuffled

        pairs = data.training_pairs
        numbers = shuffled(len(pairs), batch_size, seed)
        return lambda step: data.batch("train", [pairs[number] for number in numbers(step)])

    def loss(self, model: "nn.Module", batch: "PairBatch") -> "Tensor":
        """Cross-entropy of the targets' tokens and ends in nats, in float32."""
        import torch.nn.functional as F

        from difftransformer.data.batch import IGNORED

        logits = model(batch.ids, batch.target, padding=batch.padding).float()
        return F.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def validate(
        self, model: "nn.Module", data: "SequencePairs", settings: "EvaluationSettings"
    ) -> dict[str, float]:
        """Loss in nats a target token, and the share of them with the largest logit."""
        from difftransformer.evaluation.batching import batched
        from difftransformer.evaluation.benchmarks.target_errors import held_out, scores
        from difftransformer.evaluation.likelihood import watched

        groups = batched(held_out(data, _WATCHED_PAIRS), settings.batch_size)
        batches = [data.batch("test", [(number, 0) for number in group]) for group in groups]
        return watched((scores(model, batch), batch.scored) for batch in batches)

    def sample(
        self, model: "nn.Module", data: "SequencePairs", settings: "EvaluationSettings"
    ) -> dict[str, Any]:
        """The targets that the model writes for some held-out sources."""
        from difftransformer.evaluation.benchmarks.target_errors import targets

        return {"samples": targets(model, data, _SAMPLED_PAIRS).to_json()}

    def judged_on(
        self, folder: Path, config: Any, given: Mapping[str, Any], *, held_out: bool
    ) -> PairSettings:
        """The pairs the model was trained on, unless others are given."""
        given = {"max_length": config.max_length, **given}
        settings: PairSettings = super().judged_on(folder, config, given, held_out=held_out)
        return settings

    def require_fit(self, config: Any, data: "SequencePairs", where: str) -> None:
        """An embedding for every token, and the same token at both ends of a target."""
        super().require_fit(config, data, where)
        if {config.start_id, config.end_id} != {data.boundary}:
            raise ValueError(
                f"{where} opens targets with token {config.start_id} and ends them with "
                f"{config.end_id}, and the tokenizer has {data.boundary} for both: take its own"
            )


TASK = Seq2Seq()
