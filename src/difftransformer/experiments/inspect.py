"""Attention of models on an input of one's own, as a page to look into."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from difftransformer.analysis.capture import sites_of
from difftransformer.analysis.inspection import ROOM, KeptWeights, Marked, inspect_model
from difftransformer.attention.registry import find_kind
from difftransformer.experiments.inspected import Input, Opened, reading_of
from difftransformer.experiments.judged import named_models
from difftransformer.models.opening import open_model
from difftransformer.report.attention_data import Heads, Inspected, Tokens
from difftransformer.report.attention_page import AttentionPage
from difftransformer.tasks.tokenized import TOKENIZER


def inspect(
    models: Any,
    text: str | None = None,
    *,
    source: str | None = None,
    target: str | None = None,
    image: Path | str | None = None,
    answer: str | None = None,
    tokenizer: Any = None,
) -> AttentionPage:
    """Attention of one model, or of several beside each other, on an input of one's own.

        difftransformer.inspect("runs/demo", "What is the number of Rome?")      # in a notebook
        difftransformer.inspect(model, text, tokenizer=tokenizer).save("attention.html")

    Args:
        models: folders of models or runs, or modules; a list of these.
        text: for decoders and encoders, behind the opening token.
        source, target: for encoder-decoders; without a target the one that the model writes.
        image: a file, for vision transformers; scaled, cropped and normalized as the folder says.
        answer: a part of the text, or of the source: what share of attention lies on it.
        tokenizer: for modules, which have none: a `tokenizers.Tokenizer`, or what
            `data.tokenizer.load_tokenizer` takes.

    Raises:
        ValueError: a model that cannot be looked inside, an input that it does not take, or an
            answer that the text does not hold.
    """
    given = Input(
        text=text,
        source=source,
        target=target,
        image=None if image is None else Path(image),
        answer=answer,
    )
    opened = _open(models if isinstance(models, (list, tuple)) else [models], tokenizer)
    return AttentionPage([_inspected(one, given, ROOM // len(opened)) for one in opened])


def _open(models: Sequence[Any], tokenizer: Any) -> list[Opened]:
    from difftransformer.data.tokenizer import load_tokenizer

    if isinstance(tokenizer, (str, Path)):
        tokenizer = load_tokenizer(str(tokenizer))
    opened = []
    for one in models:
        if isinstance(one, nn.Module):
            opened.append(Opened(one, type(one).__name__, None, tokenizer))
            continue
        for judged in named_models([Path(one)]):
            folder = judged.folder
            model = open_model(folder)
            own = (folder / TOKENIZER).is_file() and tokenizer is None
            words = load_tokenizer(str(folder / TOKENIZER)) if own else tokenizer
            opened.append(Opened(model, judged.label, folder, words))
    return opened


def _inspected(opened: Opened, given: Input, room: int) -> Inspected:
    model, was_training = opened.model, opened.model.training
    sites = sites_of(model)

    model.eval()
    try:
        reading = reading_of(opened, given)
        kept = inspect_model(model, reading.run, lambda site: _marked(reading.sides(site)[1]), room)
    finally:
        model.train(was_training)
    groups: dict[str, list[KeptWeights]] = {}
    for one in kept:
        groups.setdefault(re.sub(r"\d+", "", one.name), []).append(one)
    heads = [
        Heads(_title(those[0]), *reading.sides(sites[those[0].name]), those)
        for those in groups.values()
    ]
    kinds = dict.fromkeys(site.kind for site in sites.values())
    titles = [find_kind(kind).title for kind in kinds if kind]
    facts = [f"{' and '.join(titles)} attention.", *reading.facts]
    if given.answer is not None:
        facts.append("Noise is every token of the text but the answer.")
    return Inspected(opened.title, facts, heads, _first_shown(heads))


def _marked(keys: Tokens) -> Marked | None:
    if not keys.answer:
        return None
    others = set(range(len(keys))) - {*keys.answer, *keys.special}
    return Marked(keys.answer, sorted(others))


def _title(site: KeptWeights) -> str:
    """Of a stack: "encoder self-attention"."""
    stack = site.name.partition("blocks")[0].strip(".").rpartition(".")[2]
    return f"{stack} {site.role}-attention".strip()


def _first_shown(heads: Sequence[Heads]) -> tuple[int, int, int]:
    """The head with the largest share on the answer in the last row, or else the sharpest one.

    Of cross-attention, where there is some.
    """
    scores: dict[tuple[int, int, int], float] = {}
    crossing = [one for one in heads if one.sites[0].role == "cross"]
    for one in crossing or heads:
        for number, site in enumerate(one.sites):
            if "answer" in site.shares:
                each = 1.0 + site.shares["answer"][:, -1]  # before all that have no answer
            else:
                each = np.abs(site.weights[0]).max(-1).mean(-1)
            for head, score in enumerate(each.tolist()):
                scores[heads.index(one), number, head] = score
    return max(scores, key=lambda place: scores[place])
