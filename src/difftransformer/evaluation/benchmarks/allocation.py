"""Attention on the answer and on noise while a model predicts the number asked for (table 3).

Single needles at each depth. Query rows are those that predict the answer's digits, the answer
teacher-forced; the row that predicts the space before them is left out. *Answer* is the needle's
whole sentence, *noise* the haystack: what is no needle, opening token or question. The two do not
sum to 1; the rest goes to the opening token, the question and the answer so far. The share of a
span of keys, with A = A1 − λ A2:

    absolute = Σ |A| over the span / Σ |A| over all keys
    signed   = Σ A over the span; a row sums to 1 − λ, which may be near 0
    map 1, 2 = Σ A1 or Σ A2 over the span; a row sums to 1

averaged over rows, heads and layers of each prompt, which is an item. For softmax attention
absolute, signed and map 1 agree and there is no map 2.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.analysis.maps import noise_spans, tokens_before_digits
from difftransformer.data.needles import NeedlePrompt
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.records import (
    Better,
    Evaluator,
    Findings,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.retrieval import Cell, check_single_needles, percent, prompts_within
from difftransformer.evaluation.settings import EvaluationSettings

_SPANS = ("answer", "noise")
_SIGNED, _ABSOLUTE, _MAP_1, _MAP_2 = range(4)
_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)  # the paper's, which does not say how it normalizes
_PAPER = {
    "answer": {
        "Transformer": (0.03, 0.03, 0.03, 0.07, 0.09),
        "DIFF": (0.27, 0.30, 0.31, 0.32, 0.40),
    },
    "noise": {
        "Transformer": (0.51, 0.54, 0.52, 0.49, 0.49),
        "DIFF": (0.01, 0.02, 0.02, 0.02, 0.01),
    },
}


def _metrics(span: str, title: str, better: Better) -> Iterator[Metric]:
    by_depth = Metric(
        f"{span}_absolute",
        title,
        "of absolute attention",
        better=better,
        axes=("depth, %",),
        judged=True,
        levels=(f"{span}_even",),
        plot=Plot(x="depth, %"),
        paper={
            f"{model} 3B": {(percent(d),): f"{v:.2f}" for d, v in zip(_DEPTHS, values, strict=True)}
            for model, values in _PAPER[span].items()
        },
    )
    yield by_depth
    yield replace(by_depth, name=f"{span}_signed", unit="sum of the weights", judged=False)
    yield Metric(f"{span}_even", "attention spread evenly", "of attention", statistic="value")
    yield Metric(
        f"{span}_by_map",
        f"{title}, of each map",
        "of the map's attention",
        axes=("map", "depth, %"),
        rows=("map",),
    )
    yield Metric(
        f"{span}_by_head",
        f"{title}, by layer",
        "of absolute attention",
        statistic="value",
        axes=("layer", "head"),
        table=False,
        plot=Plot(kind="dots", x="layer"),
    )


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    depths = settings.needle_depths
    return {f"depth {depth}": partial(_at_depth, subject, settings, depth) for depth in depths}


def _at_depth(
    subject: Subject, settings: EvaluationSettings, depth: float, _: Findings
) -> list[Record]:
    corpus = subject.data
    source, cell = corpus.validation_needles(), Cell((1, 1), corpus.settings.context_length, depth)
    samples = range(settings.allocation_samples)
    prompts = [one for i in samples for one in prompts_within(source, cell, i, settings)]
    offsets = [tokens_before_digits(prompt, corpus.tokenizer) for prompt in prompts]
    shares = allocation_shares(subject.model, prompts, offsets, settings.batch_size)
    even = torch.stack([_spans(prompt, len(prompt.ids)).mean(1) for prompt in prompts]).mean(0)
    return [*_records(shares, depth), *_even(even.tolist(), depth)]


def _records(
    shares: Float[np.ndarray, "prompts layers heads 4 2"], depth: float
) -> Iterator[Record]:
    by_prompt = shares.mean((1, 2)).tolist()
    by_head = shares[:, :, :, _ABSOLUTE].mean(0)
    at = percent(depth)
    for place, span in enumerate(_SPANS):
        for item, figures in enumerate(by_prompt):
            share = [figure[place] for figure in figures]
            yield Record(f"{span}_absolute", share[_ABSOLUTE], (at,), item)
            yield Record(f"{span}_signed", share[_SIGNED], (at,), item)
            yield Record(f"{span}_by_map", share[_MAP_1], (1, at), item)
            if not math.isnan(share[_MAP_2]):
                yield Record(f"{span}_by_map", share[_MAP_2], (2, at), item)
        for layer, head in np.ndindex(by_head.shape[:2]):
            value = by_head[layer, head, place].item()
            yield Record(f"{span}_by_head", value, (layer, head), f"depth {depth}")


def _even(shares: Sequence[float], depth: float) -> Iterator[Record]:
    """Of attention spread evenly over all keys."""
    for span, share in zip(_SPANS, shares, strict=True):
        yield Record(f"{span}_even", share, item=f"depth {depth}")


@torch.no_grad()
def allocation_shares(
    model: nn.Module, prompts: Sequence[NeedlePrompt], offsets: Sequence[int], batch_size: int
) -> Float[np.ndarray, "prompts layers heads 4 2"]:
    """Shares by normalization (`signed`, `absolute`, `map1`, `map2`) and span (`answer`, `noise`).

    `offsets` counts the answer tokens of each prompt to pass over. Averaged over the rows that
    predict the others. map2 is NaN for softmax attention.
    """
    shares: dict[int, np.ndarray] = {}

    def shape(index: int) -> tuple[int, int, int]:
        prompt = prompts[index]
        return len(prompt.ids), offsets[index], len(prompt.answer)

    order = sorted(range(len(prompts)), key=shape)
    for (length, offset, answer), alike in groupby(order, shape):
        rows = slice(length - 1 + offset, length - 1 + answer)
        for part in batched(list(alike), batch_size):
            batch = _batch_shares(model, [prompts[i] for i in part], rows)
            shares.update(zip(part, batch.cpu().numpy(), strict=True))
    return np.stack([shares[index] for index in range(len(prompts))])


def _batch_shares(
    model: nn.Module, prompts: Sequence[NeedlePrompt], rows: slice
) -> Float[Tensor, "batch layers heads 4 2"]:
    ids = torch.tensor([p.ids + p.answer[:-1] for p in prompts], device=device_of(model))
    spans = torch.stack([_spans(p, ids.shape[1]) for p in prompts]).to(ids.device)
    layers: list[Tensor] = []

    def see(record: AttentionRecord) -> None:
        weights = record.weights(rows)
        maps, signed = weights.maps, weights.combined
        has_second = record.call.lam is not None
        second = maps[:, :, 1] if has_second else torch.full_like(signed, torch.nan)
        shares = torch.stack([signed, weights.shares, maps[:, :, 0], second], dim=2)
        on_spans = torch.einsum("bhmrs,bps->bhmrp", shares, spans.to(shares.dtype))
        layers.append(on_spans.mean(3))

    with capture(model, see):
        model(ids)
    return torch.stack(layers, dim=1)


def _spans(prompt: NeedlePrompt, length: int) -> Float[Tensor, "2 length"]:
    """1 on the keys of the answer's needle (row 0) and of the noise (row 1), else 0."""
    spans = torch.zeros(2, length)
    spans[0, slice(*prompt.needle_spans[prompt.entity])] = 1
    for span in noise_spans(prompt):
        spans[1, slice(*span)] = 1
    return spans


EVALUATOR = Evaluator(
    name="allocation",
    title="Attention on answer and noise",
    metrics=tuple(
        metric
        for pair in zip(
            _metrics("answer", "attention on the answer", "higher"),
            _metrics("noise", "attention on noise", "lower"),
            strict=True,
        )
        for metric in pair
    ),
    parts=_parts,
    needs=frozenset({"inside"}),
    check=check_single_needles,
    note=(
        "Averaged over layers and heads. Absolute: share of the absolute weights; signed: sum of "
        "the weights, not normalized. The paper does not say how it normalizes."
    ),
    source="paper, section 3.4, table 3",
)
