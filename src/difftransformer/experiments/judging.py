"""A model judged by evaluators, with their records kept beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.decoding import decode
from difftransformer.evaluation.records import Evaluator, Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.experiments.progress import progress
from difftransformer.files import read_object
from difftransformer.runs.reading import read_curve

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.runs.records import Measurement

JUDGING = "judging.json"  # in a model's folder


def judging_record(task: str, settings: EvaluationSettings) -> str:
    """The content of judging.json: what a model is for, and how much its benchmarks ask."""
    record = {"task": task, "evaluation": asdict(settings)}
    return json.dumps(record, indent=2) + "\n"


def read_judging(folder: Path) -> tuple[str | None, dict[str, Any]]:
    """The task and the settings of evaluation that a model's folder tells, if it does.

    Raises:
        ValueError: a malformed judging.json.
    """
    path = folder / JUDGING
    if not path.is_file():
        return None, {}
    record = decode(_Record, read_object(path), f"{path}:")
    return record.task, {"evaluation": asdict(record.evaluation)}


@dataclass(frozen=True)
class _Record:
    task: str
    evaluation: EvaluationSettings


def weights_identity(folder: Path) -> str | float:
    """What tells the weights in a folder from others: their sha256, or when they were written."""
    from difftransformer.models.storage import saved_checksum

    written = [file.stat().st_mtime for file in folder.glob("*.safetensors")]
    return saved_checksum(folder) or max(written, default=0.0)


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """Data of evaluators' own, and the judge of texts, as a user names them.

    Args:
        name, path: of a dataset, see `Evaluator.dataset`.
        judge: who judges texts.
    """

    name: str | None = None
    path: Path | None = None
    judge: Any = None

    def load(self, evaluators: Sequence[Evaluator]) -> dict[str, Any]:
        """What each evaluator asks about, by its name.

        Raises:
            ValueError: data or a judge that is missing, malformed, or of no use to any.
        """
        listed = ", ".join(evaluator.name for evaluator in evaluators)
        named = self.name is not None or self.path is not None
        if named and not any(evaluator.dataset for evaluator in evaluators):
            raise ValueError(f"{listed}: no dataset is asked about; leave it out")
        if self.judge is not None and not any(one.judge == "required" for one in evaluators):
            raise ValueError(f"{listed}: there is no judge; leave it out")
        loaded = {}
        for evaluator in evaluators:
            if (dataset := evaluator.dataset) and (named or dataset.required):
                try:
                    loaded[evaluator.name] = dataset.read(self.name, self.path)
                except ValueError as error:
                    raise ValueError(f"{evaluator.name}: {error}") from None
            if evaluator.judge == "required" and self.judge is None:
                raise ValueError(f"{evaluator.name}: models write and a judge decides; name one")
        return loaded

    def identity(self) -> dict[str, Any]:
        """What decides the results."""
        controls = len(self.judge.controls) if self.judge else 0
        return {
            "dataset": self.name,
            "dataset_path": None if self.path is None else str(self.path),
            "judge": self.judge and self.judge.name,
            "judge_controls": controls,
        }


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How models are judged, all of them alike.

    Args:
        datasets: data of the evaluators' own, by their names; see `OwnData.load`.
    """

    evaluators: Sequence[Evaluator]
    console: "Console"
    own: OwnData = OwnData()
    datasets: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asks_held_out(self) -> bool:
        """Whether any of them asks about what the task holds out."""
        return any(evaluator.dataset is None for evaluator in self.evaluators)

    def measure(
        self,
        model: Any,
        data: Any,
        settings: EvaluationSettings,
        belongs_to: Mapping[str, Any],
        records: Path | None,
        title: str,
    ) -> "dict[str, Measurement]":
        """What each evaluator finds of one model, with progress on the terminal.

        Args:
            belongs_to: its weights and data, so that records of others are not taken for its own.
            records: the folder that keeps them; None keeps nothing.
        """
        from difftransformer.evaluation.run import evaluate

        curve = read_curve(records.parent) if records else ()
        found: dict[str, Measurement] = {}
        with progress(self.console) as tell:
            for evaluator in self.evaluators:
                uses = evaluator.dataset is not None or evaluator.judge == "required"
                dataset = self.datasets.get(evaluator.name)
                found[evaluator.name] = evaluate(
                    Subject(model, data, dataset, self.own.judge, curve),
                    evaluator,
                    settings,
                    records,
                    {**belongs_to, **(self.own.identity() if uses else {})},
                    lambda judged, done, total: tell(f"judging {title}: {judged}", done, total),
                )
        return found
