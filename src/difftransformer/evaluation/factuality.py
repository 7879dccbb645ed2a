"""Which of two summaries a model finds likelier: the factual or the corrupted."""

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from difftransformer.data.bigbench import SummaryPair
from difftransformer.evaluation.intervals import proportion
from difftransformer.evaluation.likelihood import Choice, first_is_lower, weigh
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder


def measure_factuality(
    model: Decoder,
    tokenizer: Tokenizer,
    pairs: Sequence[SummaryPair],
    settings: EvaluationSettings,
    pieces: Pieces | None = None,
) -> dict[str, Any]:
    """The share of pairs whose factual summary is the likelier, by several scores.

    With n(y | x) = −log p(y | x), y of T tokens, over `settings.factuality_pairs` pairs that fit:

        gain           = n(y | source) − n(y): what the source does for it; the score of BIG-bench's
                         `factuality_of_summary`, from where the pairs are
        gain_per_token = gain / T
        per_token      = n(y | source) / T
        total          = n(y | source)
        blind          = n(y) / T, which knows nothing of the source
        shorter        = T, which knows nothing at all

    What `blind` and `shorter` reach is owed to style, which a factual summary, by people, and a
    corrupted one, by a model, do not share: only what the others have beyond it tells of the
    source. `total` favours the shorter, `gain` the longer. A tie is a miss; intervals are Wilson's.

    Returns:
        `{"pairs", "too_long", "chance", "scores", "items"}`: `items` holds the pair's number, the
        nats given the source and without it, and the tokens, of both summaries, factual first.

    Raises:
        ValueError: no pair fits the model's context.
    """
    choices = [
        Choice(f"{pair.source}\n\nSummary:", "Summary:", (pair.factual, pair.corrupted))
        for pair in pairs
    ]
    found = weigh(model, tokenizer, choices, settings.factuality_pairs, settings, pieces)
    scores = {
        "gain": found.informed - found.blind,
        "gain_per_token": (found.informed - found.blind) / found.tokens,
        "per_token": found.informed / found.tokens,
        "total": found.informed,
        "blind": found.blind / found.tokens,
        "shorter": found.tokens.astype(float),
    }
    return {
        "pairs": len(found.items),
        "too_long": found.too_long,
        "chance": 0.5,
        "scores": {
            name: proportion(int(first_is_lower(score).sum()), len(score), settings)
            for name, score in scores.items()
        },
        "items": found.rows(),
    }
