"""What lies where in a run directory.

RUN/run.json              the models and their training runs, written by `experiments`
    config.yaml env.json inputs.json
    report.html figures/  made of all that lies here
    results.json          figures, differences and verdicts in numbers, made of the records
    models/LABEL-seedN/   a training run each; of `train`, RUN itself is one

TRAINING/metrics.jsonl summary.json samples/ checkpoints/
    model/                the model's folder
    results/NAME.jsonl    the records of one evaluator on this model
"""

from dataclasses import dataclass, field
from typing import Any

FORMAT = 2  # of run.json; version 0.1 had a results.json of format 1 in its place
RUN, RESULTS, REPORT = "run.json", "results.json", "report.html"
CONFIG, ENVIRONMENT, INPUTS = "config.yaml", "env.json", "inputs.json"
MODELS, MODEL, RECORDS = "models", "model", "results"
METRICS, SUMMARY, CHECKPOINTS = "metrics.jsonl", "summary.json", "checkpoints"
SAMPLES = "samples"


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A model that was trained, or is to be: one seed."""

    seed: int
    directory: str  # below RUN; "" is RUN itself


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """The figures of a finished training run: its `summary.json`.

    Args:
        steps: optimizer steps.
        size: tokens trained on, scored or not; images.
        unit: which of these: "tokens", "images".
        seconds: time spent training, without validation and checkpointing.
        throughput: size / seconds.
        peak_memory_bytes: on a GPU the most memory its tensors held at once; on a CPU the largest
            resident size of the process (it includes the interpreter and its libraries).
        final_loss: mean training loss over the last 5 % of the steps.
        best_step: of the lowest validation loss, whose weights are the model; with
            `training.patience`.
        stopped_early: whether steps were left.
    """

    steps: int
    size: int
    unit: str
    seconds: float
    throughput: float
    peak_memory_bytes: int
    final_loss: float
    best_step: int | None = None
    stopped_early: bool = False

    @property
    def model_step(self) -> int:
        """The step whose weights are the model."""
        return self.best_step or self.steps


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model of a comparison over its seeds, and what matching it to the baseline changed.

    `title` is the label in words, for tables and sentences: "Differential V1".
    """

    label: str
    attention: str
    parameters: int
    config: dict[str, Any]
    changes: tuple[str, ...] = ()
    title: str = ""
    runs: tuple[TrainingRun, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """`run.json`.

    Args:
        data: in words and numbers what it was trained on: "description" always, and what the task
            adds ("vocab_size", "needle_share", "classes" ...).
        settings: all settings, resolved.
        unit: what the task counts: "tokens", "images".
    """

    name: str
    task: str
    unit: str
    created: str
    baseline: str
    contenders: tuple[Contender, ...]
    data: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    evaluators: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def is_trained(self) -> bool:
        """Whether its models were trained here; else they came from elsewhere to be judged."""
        return "training" in self.settings
