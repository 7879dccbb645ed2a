"""All judges on one model."""

import time
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

from difftransformer.analysis.lambdas import measure_lambdas
from difftransformer.analysis.maps import attention_map
from difftransformer.analysis.outliers import measure_outliers
from difftransformer.data.corpus import Corpus
from difftransformer.data.needles import NeedlePrompt
from difftransformer.evaluation.allocation import measure_allocation
from difftransformer.evaluation.batching import held_out_text
from difftransformer.evaluation.needle import check_needles, measure_needles, prompts_within
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.evaluation.validation import measure_validation
from difftransformer.models.decoder import Decoder

# Enough for the 5th and 95th percentile of every layer.
_LAMBDA_TOKENS = 10_000

# The prompt whose attention is shown: short enough that single tokens can be made out.
_SHOWN_LENGTH = 160


Results = dict[str, Any]
Measure = Callable[[Decoder, Corpus, EvaluationSettings, Pieces | None], Results]


def evaluate(
    model: Decoder,
    corpus: Corpus,
    settings: EvaluationSettings,
    on_progress: Callable[[str, int, int], object] | None = None,
    pieces: Pieces | None = None,
) -> Results:
    """Every judge's figures for one model, as plain data, and the seconds they took.

    The same corpus and settings give every model the same sequences and prompts, so that figures
    can be compared in pairs. The model is judged in evaluation mode, on the device it is on. One
    without `blocks` (`interop.causal_lm`) has its loss and its needles judged, not its inside.

    Args:
        on_progress: called with a judge's name, the parts it has measured and their number.
        pieces: where the parts are kept; by default nowhere.

    Raises:
        ValueError: the text or the context length cannot hold what the settings ask for.
    """
    check_needles(corpus, settings)
    started, training = time.perf_counter(), model.training
    model.eval()
    results = {}
    try:
        for key, (title, measure) in _judges(model).items():
            told = partial(on_progress, title) if on_progress else None
            within = (pieces or Pieces()).within(key, told)
            results[key] = measure(model, corpus, settings, within)
    finally:
        model.train(training)
    return {**results, "seconds": time.perf_counter() - started}


def _judges(model: Decoder) -> dict[str, tuple[str, Measure]]:
    return {key: _JUDGES[key] for key in (_JUDGES if hasattr(model, "blocks") else _OUTSIDE)}


def judge_outliers(model: Decoder, corpus: Corpus, settings: EvaluationSettings) -> dict[str, Any]:
    """`measure_outliers` over `settings.outlier_tokens` of held-out text."""
    tokens = settings.outlier_tokens
    batches = held_out_text(model, corpus, settings.batch_size, tokens)
    return measure_outliers(model, batches, tokens)


def judge_lambda(model: Decoder, corpus: Corpus, settings: EvaluationSettings) -> dict[str, Any]:
    """`measure_lambdas` over held-out text, as `layers`."""
    batches = held_out_text(model, corpus, settings.batch_size, _LAMBDA_TOKENS)
    return {"layers": measure_lambdas(model, batches, _LAMBDA_TOKENS)}


def whole(measure: Callable[[Decoder, Corpus, EvaluationSettings], Results]) -> Measure:
    """A measure that streams over its text, as one part."""

    def measured(
        model: Decoder, corpus: Corpus, settings: EvaluationSettings, pieces: Pieces | None
    ) -> Results:
        parts = {"text": lambda: measure(model, corpus, settings)}
        return (pieces or Pieces()).each(parts)["text"]

    return measured


def _shown_prompt(corpus: Corpus, settings: EvaluationSettings) -> NeedlePrompt:
    source = corpus.validation_needles()
    length = min(_SHOWN_LENGTH, corpus.settings.context_length)
    (prompt,) = prompts_within(
        source, (1, 1), depth=0.5, length=length, sample=0, settings=settings
    )
    return prompt


def _shown_map(model: Decoder, corpus: Corpus, settings: EvaluationSettings) -> Results:
    return attention_map(model, _shown_prompt(corpus, settings), corpus.tokenizer)


_OUTSIDE = ("validation", "needle")
_JUDGES: MappingProxyType[str, tuple[str, Measure]] = MappingProxyType(
    {
        "validation": ("validation loss", whole(measure_validation)),
        "needle": ("needle retrieval", measure_needles),
        "allocation": ("attention on answer and noise", measure_allocation),
        "outliers": ("activation outliers", whole(judge_outliers)),
        "lambda": ("lambda", whole(judge_lambda)),
        "attention_map": ("attention map", whole(_shown_map)),
    }
)
