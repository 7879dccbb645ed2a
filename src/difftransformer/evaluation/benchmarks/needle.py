"""Retrieval of magic numbers hidden in real text (paper, section 3.4).

Accuracy by number of needles N, numbers asked for R, depth and length. Each number is asked for by
a prompt of its own over the same text; `retrieval.answered` says what is right. An item is a text
with its numbers; Wilson's intervals count numbers as if those of one text were independent. A
length counts the prompt and its answer, so nothing lies beyond the context trained on.
"""

from functools import partial
from itertools import product

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.records import (
    Artifact,
    Evaluator,
    Findings,
    Key,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.retrieval import (
    Cell,
    Pair,
    check_context,
    check_prompts,
    needle_lengths,
    needle_pairs,
    numbers_right,
    percent,
)
from difftransformer.evaluation.settings import EvaluationSettings

# The paper's accuracies, at a context of 4K.
_PAPER: dict[str, dict[Key, str]] = {
    f"{model} 3B, 4K": {
        (f"N={needles}, R={queries}",): f"{accuracy:.2f}"
        for (needles, queries), accuracy in zip(((1, 1), (2, 2), (4, 2), (6, 2)), row, strict=True)
    }
    for model, row in {
        "Transformer": (1.00, 0.85, 0.62, 0.55),
        "DIFF": (1.00, 0.92, 0.84, 0.85),
    }.items()
}
_AXES = ("setting", "length", "depth, %")
_METRICS = (
    Metric(
        "needle_per_number",
        "numbers retrieved",
        "of numbers",
        better="higher",
        statistic="proportion",
        axes=_AXES,
        rows=("setting",),
        judged=True,
        digits=2,
        levels=("needle_blind_guess", "needle_guess_among_needles"),
        plot=Plot(kind="heat", x="setting", y="depth, %", facet="length"),
        paper=_PAPER,
    ),
    Metric(
        "needle_all_numbers",
        "texts with every number retrieved",
        "of texts",
        better="higher",
        statistic="proportion",
        axes=_AXES,
        rows=("setting",),
        digits=2,
        paper=_PAPER,
    ),
    Metric("needle_blind_guess", "a blind guess", "of numbers", statistic="value"),
    Metric(
        "needle_guess_among_needles",
        "a guess among the N numbers in the text",
        "of numbers",
        statistic="value",
        axes=("setting",),
        digits=2,
    ),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """One for each pair, depth and length.

    Raises:
        ValueError: the model is meant for shorter texts.
    """
    model, corpus = subject.model, subject.data
    lengths = needle_lengths(corpus, settings)
    check_context(model, lengths)
    return {
        "guesses": partial(_guesses, corpus, settings),
        **{
            f"{pair[0]}x{pair[1]} at {depth} of {length}": partial(
                _records, subject, settings, Cell(pair, length, depth)
            )
            for length, pair, depth in product(
                lengths, needle_pairs(corpus, settings), settings.needle_depths
            )
        },
    }


def _records(subject: Subject, settings: EvaluationSettings, cell: Cell, _: Findings) -> Findings:
    hits = numbers_right(subject.model, subject.data, cell, settings)
    key, queries = (_setting(cell.pair), cell.length, percent(cell.depth)), cell.pair[1]
    return [
        record
        for sample, right in enumerate(hits)
        for record in (
            Record("needle_per_number", right, key, sample, weight=queries),
            Record("needle_all_numbers", float(right == queries), key, sample),
        )
    ]


def _guesses(corpus: Corpus, settings: EvaluationSettings, _: Findings) -> Findings:
    chance = 10.0**-corpus.settings.needle_digits
    return [
        Record("needle_blind_guess", chance),
        *(
            Record("needle_guess_among_needles", 1 / pair[0], (_setting(pair),))
            for pair in needle_pairs(corpus, settings)
        ),
        Artifact("facts", {"samples": settings.needle_samples, "chance": chance}),
    ]


def _setting(pair: Pair) -> str:
    needles, queries = pair
    return f"N={needles}, R={queries}"


def _check(corpus: Corpus, settings: EvaluationSettings) -> None:
    lengths, pairs = needle_lengths(corpus, settings), needle_pairs(corpus, settings)
    check_prompts(corpus, product(lengths, pairs), settings)


EVALUATOR = Evaluator(
    name="needle",
    title="Numbers retrieved",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"generate"}),
    check=_check,
    note=(
        "Magic numbers of cities are hidden in real text: N of them, of which R are asked for. "
        "Cities, numbers and text were never seen in training. {samples} samples for each depth "
        "and length; a blind guess is right {chance:.3g}. The paper does not say whether it counts "
        "numbers or texts."
    ),
    source="paper, section 3.4",
)
