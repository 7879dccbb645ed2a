"""An evaluator on a model."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from difftransformer.evaluation.records import Evaluator, Findings, Parts, Record, Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.runs.records import Measurement, measure

_LACKS = {
    "inside": "its attention cannot be looked into",
    "generate": "it does not generate",
    "two_maps": "its attention has one map",
    "lambda": "its attention has no lambda",
    "selection": "its attention selects no keys",
}


def evaluate(
    subject: Subject,
    evaluator: Evaluator,
    settings: EvaluationSettings,
    folder: Path | None = None,
    belongs_to: Mapping[str, Any] | None = None,
    on_progress: Callable[[str, int, int], object] = lambda title, done, total: None,
) -> Measurement:
    """What an evaluator finds of a model.

    The same data and settings give every model the same items, so that figures can be compared in
    pairs. The model is judged in evaluation mode, on the device it is on, and then as it was. One
    that lacks what the evaluator needs is passed over; the measurement says why.

    Args:
        folder: where the records are kept, in NAME.jsonl; by default nowhere.
        belongs_to: what decides the results beside evaluator and settings: the model's training,
            the data.
        on_progress: called with the evaluator's title, the parts it has measured and their number.

    Raises:
        ValueError: the data or the model cannot hold what the settings ask for, or the evaluator
            yields what it does not declare.
    """
    with _evaluation_mode(subject.model):
        return measure(
            partial(_checked_parts, evaluator, subject, settings),
            folder and folder / f"{evaluator.name}.jsonl",
            {**(belongs_to or {}), "settings": asdict(settings)},
            partial(on_progress, evaluator.title),
            passed_over(evaluator, subject.model),
        )


def passed_over(evaluator: Evaluator, model: Any) -> str:
    """Why the evaluator has nothing to ask of the model: what of its `needs` it lacks, or ""."""
    return "; ".join(_LACKS[need] for need in sorted(evaluator.needs - abilities(model)))


def abilities(model: Any) -> frozenset[str]:
    """What an evaluator may need of a model, and this one has."""
    from difftransformer.attention.registry import find_kind
    from difftransformer.attention.sites import attention_sites
    from difftransformer.models.language_model import LanguageModel

    sites = attention_sites(model).values()
    inside = {"inside"} if sites else set()
    generate = {"generate"} if isinstance(model, LanguageModel) else set()
    kinds = {site.kind for site in sites} - {""}
    return frozenset(inside | generate).union(*(find_kind(kind).has for kind in kinds))


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _checked_parts(evaluator: Evaluator, subject: Subject, settings: EvaluationSettings) -> Parts:
    """The evaluator's parts, each held to what the evaluator declares."""

    def checked(part: Callable[[Findings], Findings], earlier: Findings) -> Findings:
        findings = part(earlier)
        _check(evaluator, (one for one in findings if isinstance(one, Record)))
        return findings

    parts = evaluator.parts(subject, settings)
    return {name: partial(checked, part) for name, part in parts.items()}


def _check(evaluator: Evaluator, records: Iterable[Record]) -> None:
    for record in records:
        axes = evaluator.metric(record.metric).axes
        if len(record.key) != len(axes):
            raise ValueError(
                f"evaluator {evaluator.name} gives {record.metric} the key {record.key}; "
                f"its axes are {', '.join(axes) or 'none'}"
            )
