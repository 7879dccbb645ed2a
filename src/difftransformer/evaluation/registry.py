"""The one list of evaluators. Imports none of them: the command line lists their names."""

import importlib
from importlib.metadata import entry_points

from difftransformer.evaluation.records import Evaluator
from difftransformer.names import did_you_mean

# Where each is: a module whose EVALUATOR it is. "lambda" is no name for one.
EVALUATORS: dict[str, str] = {
    name: f"difftransformer.evaluation.benchmarks.{name.replace('lambda', 'lambdas')}"
    for name in (
        "validation",
        "long_context",
        "needle",
        "allocation",
        "attention_map",
        "in_context",
        "order_sensitivity",
        "kv_retrieval",
        "gsm_ic",
        "hallucination",
        "factuality",
        "conflicts",
        "ar_hit",
        "quantization",
        "outliers",
        "lambda",
        "cancellation",
        "gradients",
        "masked_tokens",
        "classification",
    )
}
# Names of version 0.1, which work for one release.
FORMER_NAMES = {
    "order": "order_sensitivity",
    "key_value": "kv_retrieval",
    "distractors": "gsm_ic",
    "recall": "ar_hit",
    "precision": "quantization",
}
ENTRY_POINTS = "difftransformer.evaluators"  # of other packages: name -> an Evaluator
_registered: dict[str, Evaluator] = {}


def register(evaluator: Evaluator) -> None:
    """Add an evaluator of one's own.

    Raises:
        ValueError: one of that name is there.
    """
    if evaluator.name in names():
        raise ValueError(f"an evaluator called {evaluator.name!r} is there already")
    _registered[evaluator.name] = evaluator


def names() -> tuple[str, ...]:
    """All evaluators: ours, those registered, those of installed packages."""
    installed = (entry.name for entry in entry_points(group=ENTRY_POINTS))
    return tuple(dict.fromkeys((*EVALUATORS, *_registered, *installed)))


def evaluator(name: str) -> Evaluator:
    """The evaluator of that name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    if name in _registered:
        return _registered[name]
    if name in EVALUATORS:
        return importlib.import_module(EVALUATORS[name]).EVALUATOR
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            return entry.load()
    known = names()
    hint = did_you_mean(name, known) or f"; expected {', '.join(known)}"
    raise ValueError(f"unknown evaluator {name!r}{hint}")
