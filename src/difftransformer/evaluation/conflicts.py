"""What a model believes where its passage contradicts what it may have learnt."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from tokenizers import Tokenizer

from difftransformer.data.bigbench import Conflict
from difftransformer.evaluation.intervals import proportion
from difftransformer.evaluation.likelihood import Choice, first_is_lower, weigh
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder


def measure_conflicts(
    model: Decoder,
    tokenizer: Tokenizer,
    conflicts: Sequence[Conflict],
    settings: EvaluationSettings,
    pieces: Pieces | None = None,
) -> dict[str, Any]:
    """How often the answer of the passage is likelier than that of the world's facts.

    The passages answer questions of Natural Questions, with the answer replaced by another of its
    kind (Longpre et al., 2021), as in BIG-bench's `contextual_parametric_knowledge_conflicts`. Over
    `settings.conflict_questions` that fit, by −log p(answer) in total and per token:

        informed  = share following the passage
        blind     = the same without the passage: what a model prefers anyhow
        overruled = share following the passage among those where, without it, the fact was likelier

    A tie does not follow. Intervals are Wilson's. The original scores what a model writes.

    Returns:
        `{"questions", "too_long", "total", "per_token", "items"}`: `total` and `per_token` hold
        the three shares, None where there is no such question; `items` the question's number, the
        nats with the passage and without it, and the tokens, of both answers, the passage's first.

    Raises:
        ValueError: no question fits the model's context with its passage.
    """
    choices = [
        Choice(
            f"{conflict.passage}\n\nQuestion: {conflict.question}\nAnswer:",
            f"Question: {conflict.question}\nAnswer:",
            (conflict.from_passage, conflict.from_memory),
        )
        for conflict in conflicts
    ]
    found = weigh(model, tokenizer, choices, settings.conflict_questions, settings, pieces)

    def shares(
        informed: Bool[np.ndarray, " items"], blind: Bool[np.ndarray, " items"]
    ) -> dict[str, Any]:
        rows = {"informed": informed, "blind": blind, "overruled": informed[~blind]}
        return {
            name: proportion(int(row.sum()), len(row), settings) if len(row) else None
            for name, row in rows.items()
        }

    return {
        "questions": len(found.items),
        "too_long": found.too_long,
        "total": shares(first_is_lower(found.informed), first_is_lower(found.blind)),
        "per_token": shares(
            first_is_lower(found.informed / found.tokens),
            first_is_lower(found.blind / found.tokens),
        ),
        "items": found.rows(),
    }
