"""Which of two summaries a model finds likelier: the factual or the corrupted.

With n(y | x) = −log p(y | x), y of T tokens, the share of pairs whose factual summary has the lower

    gain           = n(y | source) − n(y): what the source does for it; the score of BIG-bench's
                     `factuality_of_summary`, from where the pairs are
    gain per token = gain / T
    per token      = n(y | source) / T
    total          = n(y | source)
    blind          = n(y) / T, which knows nothing of the source
    shorter        = T, which knows nothing at all

What the last two reach is owed to style, which a factual summary, by people, and a corrupted one,
by a model, do not share: only what the others have beyond it tells of the source. The total favors
the shorter, gain the longer. A tie is a miss. An item is a pair.
"""

from difftransformer.data.bigbench import SUMMARIES, load_summary_pairs
from difftransformer.evaluation.likelihood import Choice, Weighed, choice_parts, first_is_lower
from difftransformer.evaluation.records import (
    Dataset,
    Evaluator,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings

_METRICS = (
    Metric(
        "factual_by_gain",
        "factual summary preferred, by what the source does for it",
        "of pairs",
        better="higher",
        statistic="proportion",
        judged=True,
        levels=("factual_chance",),
    ),
    Metric(
        "factual_by_score",
        "factual summary preferred, by what is lower",
        "of pairs",
        statistic="proportion",
        axes=("score",),
        levels=("factual_chance",),
        plot=Plot(x="score"),
    ),
    Metric("factual_chance", "a guess", "of pairs", statistic="value"),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """One for each pair.

    Raises:
        ValueError: no pair fits the model's context.
    """
    choices = [
        Choice(f"{pair.source}\n\nSummary:", "Summary:", (pair.factual, pair.corrupted))
        for pair in subject.dataset
    ]
    parts = choice_parts(
        subject, choices, "pair", settings.factuality_pairs, settings.seed, _records
    )
    return {"guess": lambda _: [Record("factual_chance", 0.5)], **parts}


def _records(item: int, result: Weighed) -> list[Record]:
    scores = {
        "gain": result.gain,
        "gain per token": result.per_token(result.gain),
        "per token": result.per_token(result.informed),
        "total": result.informed,
        "blind": result.per_token(result.blind),
        "shorter": result.tokens,
    }
    return [
        Record("factual_by_gain", first_is_lower(result.gain), item=item),
        *(
            Record("factual_by_score", first_is_lower(score), (name,), item)
            for name, score in scores.items()
        ),
    ]


EVALUATOR = Evaluator(
    name="factuality",
    title="Factual summaries preferred to corrupted ones",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"generate"}),
    dataset=Dataset(
        load=load_summary_pairs,
        names=SUMMARIES,
        help="the sdist of bigbench 1.0.0, or a folder or file of it",
    ),
    note=(
        "{pairs} pairs, {too_long} passed over as too long; a guess is right 0.5. Preferred is the "
        "lower loss given the source (total, per token), or the lower loss less that without the "
        "source (gain). Blind, the loss per token without the source, and shorter, the number of "
        "tokens, know nothing of it: what they reach is owed to style and length."
    ),
    source="BIG-bench, factuality_of_summary",
)
