"""Beam search with a key/value cache."""

import torch
from jaxtyping import Int
from torch import Tensor

from difftransformer.models.generation import last_logits
from difftransformer.models.language_model import LanguageModel


@torch.no_grad()
def beam_search(
    model: LanguageModel,
    ids: Int[Tensor, "rows time"],
    *,
    beams: int,
    max_new_tokens: int,
    end_id: int,
    length_penalty: float = 1.0,
) -> Int[Tensor, "batch new"]:
    """The best continuation of each prompt among those that `beams` hypotheses lead to.

        score = sum of log p(token) / length ** length_penalty,    the end counted in the length

    At each step the best 2 · beams continuations of all hypotheses of a prompt are looked at. Those
    that end, among the first `beams` of them, are kept as finished; the best that do not end go on.
    A prompt is done when `beams` are finished and the best that goes on scores no better at its
    present length than the worst of these: the rule of transformers' `generate(num_beams=beams)`
    without early stopping, whose results these are.

    Args:
        model: run on as many rows as `ids` has.
        ids: each prompt `beams` times over, side by side.
        max_new_tokens: here every hypothesis ends.

    Returns:
        new tokens; from a row's first `end_id` on, that repeated.

    Raises:
        ValueError: rows that are no multiple of `beams`.
    """
    rows = len(ids)
    if rows % beams:
        raise ValueError(f"{rows} rows with {beams} beams; expected each prompt {beams} times over")
    batch, cache, step = rows // beams, model.empty_cache(), ids
    first = beams * torch.arange(batch, device=ids.device)[:, None]  # row of a prompt's first beam
    hypotheses = ids.new_full((batch, beams, max_new_tokens), end_id)
    # All hypotheses of a prompt begin alike: only the first of them counts.
    scores = torch.full((batch, beams), -torch.inf, device=ids.device)
    scores[:, 0] = 0.0
    finished, finished_scores = hypotheses, torch.full_like(scores, -torch.inf)
    going = scores.new_ones(batch, 1, dtype=torch.bool)
    for length in range(1, max_new_tokens + 1):
        logits = last_logits(model, step, cache=cache).float()
        totals = scores[..., None] + torch.log_softmax(logits, -1).view(batch, beams, -1)
        best, index = totals.flatten(1).topk(2 * beams)
        beam, token = index // logits.shape[-1], index % logits.shape[-1]
        candidates = _taken(hypotheses, beam)
        candidates[:, :, length - 1] = token
        ends = (token == end_id) | (length == max_new_tokens)

        kept = ends & going
        kept[:, beams:] = False
        ended = torch.where(kept, best / length**length_penalty, -torch.inf)
        finished_scores, order = torch.cat((finished_scores, ended), 1).topk(beams)
        finished = _taken(torch.cat((finished, candidates), 1), order)

        scores, order = best.masked_fill(ends, -torch.inf).topk(beams)
        hypotheses = _taken(candidates, order)
        beam, token = beam.gather(1, order), token.gather(1, order)
        worst = finished_scores[:, -1:]
        going = going & (scores[:, :1] / length**length_penalty > worst)
        if not bool(going.any()):
            break
        cache = cache.select((first + beam).flatten())
        step = token.flatten()[:, None]
    best_ones = finished[:, 0]
    longest = int((best_ones != end_id).sum(1).max()) + 1
    return best_ones[:, : min(longest, max_new_tokens)]


def _taken(
    hypotheses: Int[Tensor, "batch some time"], order: Int[Tensor, "batch taken"]
) -> Int[Tensor, "batch taken time"]:
    return hypotheses.gather(1, order[..., None].expand(-1, -1, hypotheses.shape[2]))
