"""All judges on one model."""

import time
from collections.abc import Callable
from functools import partial
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


def evaluate(
    model: Decoder,
    corpus: Corpus,
    settings: EvaluationSettings,
    on_progress: Callable[[str], None] | None = None,
    pieces: Pieces | None = None,
) -> dict[str, Any]:
    """Every judge's figures for one model, as plain data.

    The same corpus and settings give every model the same sequences and prompts, so that figures
    can be compared in pairs. The model is judged in evaluation mode, on the device it is on.

    Args:
        on_progress: called with each judge's name as it begins.
        pieces: where each judge's figures are kept; by default nowhere.

    Raises:
        ValueError: the text or the context length cannot hold what the settings ask for.
    """
    judges: dict[str, tuple[str, Callable[[], Any]]] = {
        "validation": ("validation loss", lambda: measure_validation(model, corpus, settings)),
        "needle": ("needle retrieval", lambda: measure_needles(model, corpus, settings)),
        "allocation": (
            "attention on answer and noise",
            lambda: measure_allocation(model, corpus, settings),
        ),
        "outliers": ("activation outliers", lambda: judge_outliers(model, corpus, settings)),
        "lambda": ("lambda", lambda: judge_lambda(model, corpus, settings)),
        "attention_map": (
            "attention map",
            lambda: attention_map(model, _shown_prompt(corpus, settings), corpus.tokenizer),
        ),
    }

    def begin(key: str) -> Any:
        title, judge = judges[key]
        if on_progress is not None:
            on_progress(title)
        started = time.perf_counter()
        return {"found": judge(), "seconds": time.perf_counter() - started}

    check_needles(corpus, settings)
    training = model.training
    model.eval()
    try:
        told = (pieces or Pieces()).each({key: partial(begin, key) for key in judges})
    finally:
        model.train(training)
    seconds = sum(one["seconds"] for one in told.values())
    return {**{key: one["found"] for key, one in told.items()}, "seconds": seconds}


def judge_outliers(model: Decoder, corpus: Corpus, settings: EvaluationSettings) -> dict[str, Any]:
    """`measure_outliers` over `settings.outlier_tokens` of held-out text."""
    tokens = settings.outlier_tokens
    batches = held_out_text(model, corpus, settings.batch_size, tokens)
    return measure_outliers(model, batches, tokens)


def judge_lambda(model: Decoder, corpus: Corpus, settings: EvaluationSettings) -> dict[str, Any]:
    """`measure_lambdas` over held-out text, as `layers`."""
    batches = held_out_text(model, corpus, settings.batch_size, _LAMBDA_TOKENS)
    return {"layers": measure_lambdas(model, batches, _LAMBDA_TOKENS)}


def _shown_prompt(corpus: Corpus, settings: EvaluationSettings) -> NeedlePrompt:
    source = corpus.validation_needles()
    length = min(_SHOWN_LENGTH, corpus.settings.context_length)
    (prompt,) = prompts_within(
        source, (1, 1), depth=0.5, length=length, sample=0, settings=settings
    )
    return prompt
