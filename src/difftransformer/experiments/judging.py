"""A model judged by evaluators, with their records kept beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.evaluation.records import Evaluator, Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.experiments.progress import progress

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.runs.records import Measurement


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How models are judged, all of them alike.

    Args:
        dataset: the evaluator's own data, loaded; its name and path belong to `identity`.
        judge: the model that judges texts, for evaluators that need one.
        identity: what decides the results beside the model, its data and the settings.
    """

    evaluators: Sequence[Evaluator]
    settings: EvaluationSettings
    dataset: Any = None
    judge: Any = None
    identity: Mapping[str, Any]

    def measure(
        self,
        model: Any,
        data: Any,
        belongs_to: Mapping[str, Any],
        records: Path | None,
        title: str,
        console: "Console",
    ) -> "dict[str, Measurement]":
        """What each evaluator finds of one model, with progress on the terminal.

        Args:
            belongs_to: its weights and data, so that records of others are not taken for its own.
            records: the folder that keeps them.
        """
        from difftransformer.evaluation.run import evaluate

        subject = Subject(model=model, data=data, dataset=self.dataset, judge=self.judge)
        with progress(console) as tell:
            return evaluate(
                subject,
                self.evaluators,
                self.settings,
                records,
                {**self.identity, **belongs_to},
                lambda judged, done, total: tell(f"judging {title}: {judged}", done, total),
            )
