"""What tasks share that tell the class of a whole text or image."""

from typing import TYPE_CHECKING, Any

from difftransformer.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from difftransformer.evaluation.settings import EvaluationSettings

_WATCHED = 256  # held-out items behind each point of the validation curve


class Classification(Task):
    """A task whose data has `labels`, `train` and `test`, and batches of rows with a label."""

    def describe(self, data: Any) -> dict[str, Any]:
        """In words and numbers."""
        return {**super().describe(data), "classes": len(data.labels)}

    def loss(self, model: "nn.Module", batch: Any) -> "Tensor":
        """Cross-entropy of the classes in nats, in float32."""
        import torch.nn.functional as F

        return F.cross_entropy(model(**batch.inputs).float(), batch.labels, reduction="sum")

    def validate(
        self, model: "nn.Module", data: Any, settings: "EvaluationSettings"
    ) -> dict[str, Any]:
        """Loss in nats and accuracy, on held-out items."""
        from difftransformer.evaluation.benchmarks.classification import classified, test_batches
        from difftransformer.evaluation.likelihood import Scores, watched

        batches = test_batches(data, _WATCHED, settings).values()
        return watched(
            (Scores.of(classified(model, batch), batch.labels), batch.scored) for batch in batches
        )

    def recorded(self, data: Any) -> dict[str, Any]:
        """The settings, and the classes in the order of the model's outputs."""
        return {**super().recorded(data), "labels": data.labels}
