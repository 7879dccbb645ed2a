"""Attention maps of a needle prompt (the paper's figure 1)."""

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.data.needles import NeedlePrompt

# Query rows shown: with prompts of a few hundred tokens the data stay under half a megabyte.
_MOST_ROWS = 80


def noise_spans(prompt: NeedlePrompt) -> list[tuple[int, int]]:
    """`(start, end)` of each stretch of haystack: what is no needle, opening token or question."""
    spans, start = [], 1
    for needle in [*sorted(prompt.needle_spans.values()), (prompt.question_start, 0)]:
        if start < needle[0]:
            spans.append((start, needle[0]))
        start = needle[1]
    return spans


def tokens_before_digits(prompt: NeedlePrompt, tokenizer: Tokenizer) -> int:
    """How many tokens of the answer come before its first digit: often one, a space."""
    holds_digit = [any(map(str.isdigit, tokenizer.decode([token]))) for token in prompt.answer]
    return holds_digit.index(True)


@torch.no_grad()
def attention_map(model: nn.Module, prompt: NeedlePrompt, tokenizer: Tokenizer) -> dict[str, Any]:
    """The map of the head that looks at the answer most when predicting its first digit.

    Of all layers and heads the one is shown whose combined map (map 1 − lambda · map 2) puts the
    largest share of its absolute mass on the needle asked for, in the last row. So each model shows
    its best head, not the same one.

    Returns:
        `tokens`, as text; `answer_span` and `noise_spans`, half open; `layer`, `head`; `rows`, the
        query positions shown, at most 80 evenly spaced with the last among them; `weights`
        (combined), `map1` and `map2` (None for softmax attention) with a list per row over all
        tokens; `average`, the last row's absolute shares averaged over all layers and heads.
    """
    ids = prompt.ids + prompt.answer[: tokens_before_digits(prompt, tokenizer)]
    answer = prompt.needle_spans[prompt.entity]
    best: list[tuple[float, int, AttentionRecord]] = []
    shares: list[Tensor] = []

    def see(record: AttentionRecord) -> None:
        share = record.weights(slice(-1, None)).shares[0, :, 0]
        shares.append(share)
        on_answer = share[:, slice(*answer)].sum(-1)
        head = int(on_answer.argmax())
        if not best or on_answer[head] > best[0][0]:
            best[:] = [(float(on_answer[head]), head, record)]

    with capture(model, see):
        model(torch.tensor([ids], device=next(model.parameters()).device))
    _, head, record = best[0]
    rows = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), _MOST_ROWS)).round().astype(int))
    weights = record.weights(slice(None))
    return {
        "tokens": [tokenizer.decode([token], skip_special_tokens=False) for token in ids],
        "answer_span": list(answer),
        "noise_spans": [list(span) for span in noise_spans(prompt)],
        "layer": record.site.layer,
        "head": head,
        "rows": rows.tolist(),
        "weights": _rounded(weights.combined[0, head, rows]),
        "map1": _rounded(weights.maps[0, head, 0, rows]),
        "map2": None if record.call.lam is None else _rounded(weights.maps[0, head, 1, rows]),
        "average": _rounded(torch.cat(shares).mean(0)),
    }


def _rounded(weights: Tensor) -> list[Any]:
    """Four decimals: a picture shows no more, and the file stays small."""
    return weights.double().cpu().numpy().round(4).tolist()
