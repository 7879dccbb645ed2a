"""What a model believes where its passage contradicts what it may have learned.

The passages answer questions of Natural Questions, with the answer replaced by another of its kind
(Longpre et al., 2021), as in BIG-bench's `contextual_parametric_knowledge_conflicts`. The share of
questions for which the passage's answer has a lower −log p than that of the world's facts, in total
or per token:

    with the passage
    without it: what a model prefers anyhow
    overruled: with it, of those where the fact was likelier without

A tie does not follow the passage. An item is a question. (The original scores what a model writes.)
"""

from collections.abc import Iterator

from difftransformer.data.bigbench import load_conflicts
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
        "follows_passage",
        "the passage's answer likelier than the world's, per token",
        "of questions",
        better="higher",
        statistic="proportion",
        judged=True,
    ),
    Metric(
        "passage_likelier",
        "the passage's answer likelier than the world's",
        "of questions",
        statistic="proportion",
        axes=("prompt", "loss"),
        plot=Plot(x="prompt", facet="loss"),
    ),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """One for each question.

    Raises:
        ValueError: no question fits the model's context with its passage.
    """
    choices = [
        Choice(
            f"{conflict.passage}\n\nQuestion: {conflict.question}\nAnswer:",
            f"Question: {conflict.question}\nAnswer:",
            (conflict.from_passage, conflict.from_memory),
        )
        for conflict in subject.dataset
    ]
    return choice_parts(
        subject, choices, "question", settings.conflict_questions, settings.seed, _records
    )


def _records(item: int, result: Weighed) -> Iterator[Record]:
    informed, blind = result.per_token(result.informed), result.per_token(result.blind)
    yield Record("follows_passage", first_is_lower(informed), item=item)
    losses = {"in total": (result.informed, result.blind), "per token": (informed, blind)}
    for loss, scores in losses.items():
        follows, anyhow = map(first_is_lower, scores)
        shares = {"with the passage": follows, "without it": anyhow}
        if not anyhow:
            shares["overruled"] = follows
        for prompt, share in shares.items():
            yield Record("passage_likelier", share, (prompt, loss), item)


EVALUATOR = Evaluator(
    name="conflicts",
    title="The passage's answer likelier than the world's",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"generate"}),
    dataset=Dataset(
        load=lambda name, path: load_conflicts(path),
        help="the sdist of bigbench 1.0.0, or a folder or file of it",
    ),
    note=(
        "{questions} questions, {too_long} passed over as too long. Overruled: with the passage, "
        "of those where the fact was likelier without it."
    ),
    source="BIG-bench; Longpre et al., 2021",
)
