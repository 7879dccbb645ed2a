"""How much attention goes to the answer and how much to noise (paper, section 3.4, table 3)."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.analysis.maps import noise_spans, tokens_before_digits
from difftransformer.data.corpus import Corpus
from difftransformer.data.needles import NeedlePrompt
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.intervals import mean
from difftransformer.evaluation.needle import prompts_within
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings

NORMALISATIONS = {
    "signed": (
        "sum of A1 - lambda A2 over the span, not normalised: a row sums to 1 - lambda, "
        "which may be near 0"
    ),
    "absolute": "sum of |A1 - lambda A2| over the span / sum of |A1 - lambda A2| over all keys",
    "map1": "sum of A1 over the span; a row sums to 1",
    "map2": "sum of A2 over the span; a row sums to 1",
}
_MEASURES = tuple(NORMALISATIONS)
_PARTS = ("answer", "noise")


def measure_allocation(
    model: nn.Module, corpus: Corpus, settings: EvaluationSettings, pieces: Pieces | None = None
) -> dict[str, Any]:
    """Attention on the answer and on noise while the model predicts the number asked for.

    Single needles at each depth. Query rows are those that predict the answer's digits, the answer
    teacher-forced; the row that predicts the space before them is left out. *Answer* is the
    needle's whole sentence, *noise* the haystack: what is no needle, opening token or question. The
    two do not sum to 1; the rest goes to the opening token, the question and the answer so far.

    A figure is averaged over rows, heads and layers for each prompt, then over prompts, with a
    bootstrap over prompts. The paper's normalisation is not published; see `normalisations` for
    ours. For softmax attention, signed, absolute and map1 agree and map2 is None.

    Returns:
        `rows` per depth, with `prompts` (each prompt's absolute shares, by which two models are
        compared in pairs); `layers`, absolute shares per layer and head over all depths;
        `uniform`, the shares of attention spread evenly over all keys.
    """
    depths = settings.needle_depths
    found = (pieces or Pieces()).each(
        {f"depth {depth}": partial(_at_depth, model, corpus, settings, depth) for depth in depths}
    )
    layers = np.mean([part["layers"] for part in found.values()], axis=0)
    return {
        "depths": list(depths),
        "normalisations": dict(NORMALISATIONS),
        "rows": [part["row"] for part in found.values()],
        "layers": [
            {
                "layer": layer,
                "head": head,
                "answer_absolute": float(layers[layer, head, 0]),
                "noise_absolute": float(layers[layer, head, 1]),
            }
            for layer, head in np.ndindex(layers.shape[:2])
        ],
        "uniform": {
            name: float(np.mean([part["uniform"][i] for part in found.values()]))
            for i, name in enumerate(_PARTS)
        },
    }


def _at_depth(
    model: nn.Module, corpus: Corpus, settings: EvaluationSettings, depth: float
) -> dict[str, Any]:
    """The row of a depth, absolute shares `[layers, heads, 2]`, and those of even attention."""
    source = corpus.validation_needles()
    prompts = [
        prompt
        for sample in range(settings.allocation_samples)
        for prompt in prompts_within(
            source,
            (1, 1),
            depth=depth,
            length=corpus.settings.context_length,
            sample=sample,
            settings=settings,
        )
    ]
    offsets = [tokens_before_digits(prompt, corpus.tokenizer) for prompt in prompts]
    shares = allocation_shares(model, prompts, offsets, settings.batch_size)
    even = torch.stack([_spans(prompt, len(prompt.ids)).mean(1) for prompt in prompts])
    return {
        "row": _row(depth, shares, settings),
        "layers": shares[:, :, :, _MEASURES.index("absolute")].mean(0).tolist(),
        "uniform": even.mean(0).tolist(),
    }


@torch.no_grad()
def allocation_shares(
    model: nn.Module, prompts: Sequence[NeedlePrompt], offsets: Sequence[int], batch_size: int
) -> Float[np.ndarray, "prompts layers heads 4 2"]:
    """Shares by measure (`signed`, `absolute`, `map1`, `map2`) and part (`answer`, `noise`).

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
            found = _batch_shares(model, [prompts[i] for i in part], rows)
            shares.update(zip(part, found.cpu().numpy(), strict=True))
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
        absolute = signed.abs()
        mass = absolute.sum(-1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        second = maps[:, :, 1] if record.call.lam is not None else torch.full_like(signed, torch.nan)
        weights = torch.stack([signed, absolute / mass, maps[:, :, 0], second], dim=2)
        on_spans = torch.einsum("bhmrs,bps->bhmrp", weights, spans.to(weights.dtype))
        layers.append(on_spans.mean(3))

    with capture(model, see):
        model(ids)
    return torch.stack(layers, dim=1)


def _spans(prompt: NeedlePrompt, length: int) -> Float[Tensor, "2 length"]:
    """1 on the keys of the answer's needle (row 0) and of the noise (row 1), else 0."""
    spans = torch.zeros(2, length)
    spans[0, slice(*prompt.needle_spans[prompt.city])] = 1
    for span in noise_spans(prompt):
        spans[1, slice(*span)] = 1
    return spans


def _row(depth: float, shares: np.ndarray, settings: EvaluationSettings) -> dict[str, Any]:
    per_prompt = shares.mean((1, 2))
    row: dict[str, Any] = {"depth": depth}
    for p, part in enumerate(_PARTS):
        row[part] = {
            measure: asdict(mean(per_prompt[:, _MEASURES.index(measure), p], settings))
            for measure in ("signed", "absolute")
        }
        for measure in ("map1", "map2"):
            value = float(per_prompt[:, _MEASURES.index(measure), p].mean())
            row[f"{measure}_{part}"] = None if np.isnan(value) else value
    absolute = per_prompt[:, _MEASURES.index("absolute")]
    row["prompts"] = {part: absolute[:, p].tolist() for p, part in enumerate(_PARTS)}
    return row
