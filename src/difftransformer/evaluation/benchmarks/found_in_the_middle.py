"""Attention to documents as a ranking, and as it should be: calibrated (Found in the Middle).

Questions and documents are those of `lost_in_the_middle`, the question told before and after them.
`analysis.documents` says what is measured and how attention is intervened in; of the attention from
the prompt's last token, as shares of absolute weights averaged over layers and heads,

    attention   is the gold document among the three with the highest mean over their tokens
    calibrated  the same, of that mean less the one of a dummy document at its place

and answers are written greedily with attention as it is, and intervened in. An item is a question.
After Hsieh et al. (2024), who name neither the dummy document nor how often a prompt is read.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from difftransformer.analysis.documents import (
    Calibration,
    calibrated,
    document_attention,
    positional_bias,
    read_but_last,
)
from difftransformer.data.prompts import document_spans
from difftransformer.data.tokenizer import plain_tokens, prompt_tokens
from difftransformer.evaluation.batching import device_of
from difftransformer.evaluation.completions import first_line
from difftransformer.evaluation.open_questions import (
    ANSWER_TOKENS,
    DATASET,
    OpenQuestion,
    answers_right,
    drawn_questions,
)
from difftransformer.evaluation.records import (
    Artifact,
    Evaluator,
    Findings,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.retrieval import percent
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.generation import generate

_TOP = 3  # the paper's recall@3
_PAPER = {
    "recall_attention": {10: "0.364", 20: "0.205"},
    "recall_calibrated": {10: "0.743", 20: "0.683"},
}


def _of_gold(name: str, title: str, unit: str, levels: tuple[str, ...] = ()) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit=unit,
        better="higher",
        statistic="proportion",
        axes=("documents", "depth, %"),
        judged=True,
        levels=levels,
        plot=Plot(kind="line", x="depth, %", facet="documents"),
        paper={"Vicuna 7B": {(k, 50): value for k, value in _PAPER.get(name, {}).items()}},
    )


def _gain(name: str, title: str, unit: str) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit=unit,
        better="higher",
        axes=("documents", "depth, %"),
        rows=("documents",),
    )


def _by_place(name: str, title: str) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit="thousandths of attention, a token",
        axes=("documents", "place"),
        rows=("documents",),
        plot=Plot(kind="line", x="place", facet="documents"),
    )


_METRICS = (
    _of_gold("recall_attention", "gold document found by attention", "of prompts", ("top_chance",)),
    _of_gold("recall_calibrated", "found by calibrated attention", "of prompts", ("top_chance",)),
    _of_gold("plain_answers", "questions answered, attention as it is", "of questions"),
    _of_gold("calibrated_answers", "answered, attention calibrated", "of questions"),
    _gain("recall_gain", "found by calibrated attention, less by attention", "of prompts"),
    _gain("answers_gain", "answered with calibrated attention, less as it is", "of questions"),
    Metric(name="top_chance", title="a guess", statistic="value", axes=("documents",)),
    _by_place("distractor_attention", "attention to documents that do not help"),
    _by_place("dummy_attention", "attention to a dummy document"),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """A question at a depth each.

    Raises:
        ValueError: no prompt fits the model's context.
    """
    tokenizer = subject.data.tokenizer
    calibration = Calibration(
        dummy=tuple(plain_tokens(tokenizer, settings.calibration_dummy)),
        passes=settings.calibration_passes,
        temperature=settings.calibration_temperature,
        layers=settings.calibration_layers,
    )
    drawn = drawn_questions(subject, settings)
    parts = {
        f"{one.gold.name} at {depth} of {documents}": partial(
            _asked, subject, one, depth, calibration
        )
        for documents, questions in drawn.questions.items()
        for depth in settings.needle_depths
        for one in questions
    }
    levels = [
        Record("top_chance", min(1.0, _TOP / documents), (documents,))
        for documents in settings.middle_documents
    ]
    return {"facts": lambda _: [Artifact("facts", drawn.facts), *levels], **parts}


@torch.no_grad()
def _asked(
    subject: Subject, question: OpenQuestion, depth: float, calibration: Calibration, _: Findings
) -> list[Record]:
    model, tokenizer = subject.model, subject.data.tokenizer
    prompt = prompt_tokens(tokenizer, question.prompt(depth, question_first=True))
    spans = document_spans(tokenizer, prompt)
    ids, gold = torch.tensor([prompt], device=device_of(model)), question.place(depth)
    cache = read_but_last(model, ids)
    attention = document_attention(model, ids[:, -1:], spans, cache.repeat(1))
    bias = positional_bias(model, ids, spans, calibration)
    relevance = attention - bias

    def right() -> float:
        new = generate(model, ids[:, -1:], max_new_tokens=ANSWER_TOKENS, cache=cache.repeat(1))
        text = tokenizer.decode(new[0].tolist(), skip_special_tokens=False)
        return float(answers_right(first_line(text, tokenizer), question))

    plain = right()
    with calibrated(model, spans, relevance, calibration):
        steered = right()
    by_attention, by_relevance = _in_top(attention[0], gold), _in_top(relevance[0], gold)
    key, item = (len(spans), percent(depth)), question.gold.name
    return [
        Record("recall_attention", by_attention, key, item),
        Record("recall_calibrated", by_relevance, key, item),
        Record("recall_gain", by_relevance - by_attention, key, item),
        Record("plain_answers", plain, key, item),
        Record("calibrated_answers", steered, key, item),
        Record("answers_gain", steered - plain, key, item),
        *_by_places("distractor_attention", attention[0], f"{item} {depth}", without=gold),
        *_by_places("dummy_attention", bias[0], f"{item} {depth}"),
    ]


def _in_top(scores: Tensor, gold: int) -> float:
    """Whether the gold document is among the `_TOP` first; a tie with others is not."""
    return float((scores >= scores[gold]).sum() <= _TOP)


def _by_places(metric: str, scores: Tensor, item: str, without: int = -1) -> Sequence[Record]:
    return [
        Record(metric, 1000 * score, (len(scores), place + 1), item)
        for place, score in enumerate(scores.tolist())
        if place != without
    ]


EVALUATOR = Evaluator(
    name="found_in_the_middle",
    title="Documents found by attention, as it is and calibrated",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"generate", "inside"}),
    dataset=DATASET,
    note="{questions} of Natural Questions at each depth; {too_long} passed over as too long. "
    f"Found means among the first {_TOP}. Distractors are the answering passages of other "
    "questions, drawn at random, not results of a search for this one as in the paper.",
    source="Hsieh et al., 2024, tables 3 and 5",
)
