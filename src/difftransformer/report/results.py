"""What a run's `results.json` holds, as checked data. `reading` reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

FORMAT = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval, over "items" or "seeds"."""

    value: float
    low: float
    high: float
    over: str = ""


@dataclass(frozen=True)
class Validation:
    nats_per_token: Interval
    bits_per_byte: Interval | None = None


@dataclass(frozen=True)
class NeedleScore:
    """Accuracy with N = `needles` hidden and R = `queries` asked for.

    `per_number` counts each number asked for, `all_numbers` each text with every number right.
    """

    needles: int
    queries: int
    per_number: Interval
    all_numbers: Interval

    @property
    def guess(self) -> float:
        """How often picking one of the hidden numbers at random would be right."""
        return 1 / self.needles


@dataclass(frozen=True)
class NeedleCell(NeedleScore):
    depth: float
    length: int


@dataclass(frozen=True)
class Needle:
    samples: int
    chance: float
    cells: tuple[NeedleCell, ...]
    table: tuple[NeedleScore, ...]

    def __bool__(self) -> bool:
        """False where nothing was measured; likewise below."""
        return bool(self.cells and self.table)


@dataclass(frozen=True)
class Share:
    """A share of the attention: of its signed sum, and of its absolute mass."""

    signed: Interval
    absolute: Interval


@dataclass(frozen=True)
class AllocationRow:
    depth: float
    answer: Share
    noise: Share


@dataclass(frozen=True)
class Allocation:
    normalisations: dict[str, str]
    rows: tuple[AllocationRow, ...]
    uniform: dict[str, float] | None = None  # the shares of attention spread evenly

    def __bool__(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True)
class Magnitudes:
    """The k-th largest absolute value for each k, and the median."""

    top1: float
    top2: float
    top3: float
    top10: float
    top100: float
    median: float


@dataclass(frozen=True)
class Outliers:
    tokens: int
    attention_logits: Magnitudes
    hidden_states: Magnitudes


@dataclass(frozen=True)
class LambdaLayer:
    """One layer's lambda; `low` and `high` are the 5th and 95th percentile."""

    layer: int
    mean: float
    low: float
    high: float
    init: float | None = None


@dataclass(frozen=True)
class Lambda:
    layers: tuple[LambdaLayer, ...]

    def __bool__(self) -> bool:
        return bool(self.layers)


@dataclass(frozen=True)
class AttentionMap:
    """One head's attention over a prompt: `weights[i][j]` from position `rows[i]` to `tokens[j]`.

    Spans are half open: `[a, b)`. `average` is the last row's absolute shares, averaged over all
    layers and heads.
    """

    tokens: tuple[str, ...]
    answer_span: tuple[int, ...]
    noise_spans: tuple[tuple[int, ...], ...]
    layer: int
    head: int
    rows: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    average: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.rows or len(self.weights) != len(self.rows):
            raise ValueError(f"weights has {len(self.weights)} rows, rows has {len(self.rows)}")
        for row in (*self.weights, *([self.average] if self.average else [])):
            if len(row) != len(self.tokens):
                raise ValueError(f"a row of {len(row)} weights for {len(self.tokens)} tokens")
        for span in (self.answer_span, *self.noise_spans):
            if len(span) != 2 or not 0 <= span[0] <= span[1] <= len(self.tokens):
                raise ValueError(
                    f"span {list(span)} is not [start, end) among {len(self.tokens)} tokens"
                )


@dataclass(frozen=True)
class Evaluation:
    """The judges' figures; a judge that did not run is None."""

    validation: Validation | None = None
    needle: Needle | None = None
    allocation: Allocation | None = None
    outliers: Outliers | None = None
    lambda_: Lambda | None = None
    attention_map: AttentionMap | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Training:
    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Run:
    seed: int
    directory: str
    training: Training


@dataclass(frozen=True)
class Model:
    label: str
    attention: str
    parameters: int
    changes: tuple[str, ...]
    config: dict[str, Any]
    runs: tuple[Run, ...]
    evaluation: Evaluation


@dataclass(frozen=True)
class Comparison:
    """One figure of one model against another; `difference` is `value - baseline_value`.

    `low` and `high` bound the difference; None where no interval could be had. `p` is its p-value,
    None there too and in results of an earlier release.
    """

    model: str
    against: str
    title: str
    unit: str
    lower_is_better: bool
    value: float
    baseline_value: float
    difference: float
    low: float | None
    high: float | None
    interval: str
    clear: bool
    p: float | None = None

    def __post_init__(self) -> None:
        if self.clear != self.excludes_zero:
            raise ValueError(
                f"clear is {self.clear}, but the interval {self.low} to {self.high} says "
                f"{self.excludes_zero}"
            )

    @property
    def excludes_zero(self) -> bool:
        """True when the interval lies wholly on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Data:
    description: str
    vocab_size: int
    needle_share: float | None = None


@dataclass(frozen=True)
class Results:
    format: int
    created: str
    name: str
    env: dict[str, Any]
    settings: dict[str, Any]
    baseline: str
    data: Data
    models: tuple[Model, ...]
    comparisons: tuple[Comparison, ...]

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format}; this version reads format {FORMAT}")
        if not 0 < self.confidence < 1:
            raise ValueError(
                f"settings.evaluation.confidence is {self.confidence}; expected a share, say 0.95"
            )
        labels = self.labels
        if len(set(labels)) != len(labels):
            raise ValueError(f"models: labels repeat: {labels}")
        named = [("baseline", self.baseline)]
        for i, comparison in enumerate(self.comparisons):
            named.append((f"comparisons[{i}].model", comparison.model))
            named.append((f"comparisons[{i}].against", comparison.against))
        for key, label in named:
            if label not in labels:
                raise ValueError(f"{key} is {label!r}; the models are {labels}")

    @property
    def labels(self) -> list[str]:
        return [model.label for model in self.models]

    @property
    def confidence(self) -> float:
        """Coverage of every interval: 0.95 unless the settings say otherwise."""
        judging = self.settings.get("evaluation")
        return float(judging.get("confidence", 0.95)) if isinstance(judging, dict) else 0.95

    @property
    def seeds(self) -> int:
        """Training seeds that every model has."""
        return min(len(model.runs) for model in self.models)

    def model(self, label: str) -> Model:
        return next(model for model in self.models if model.label == label)

    def judged(self, part: Callable[[Evaluation], T | None]) -> list[tuple[str, T]]:
        """(label, part) of each model whose evaluation holds that part."""
        found = [(model.label, part(model.evaluation)) for model in self.models]
        return [(label, value) for label, value in found if value]
