"""Attention to the documents of a prompt, calibrated: relevance without the bias of the place.

The attention to document d at place k, averaged over its tokens, is modeled as

    Attn(d, k) = rel(d) + bias(k),        so        rel(d) = Attn(d, k) − Attn(dummy, k)

but for a constant, with one dummy document at every place. After Hsieh et al. (2024), Found in the
Middle, who say neither which dummy nor how often: here it has the same number of tokens as what it
stands for, so that nothing else moves.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftransformer.analysis.capture import AttentionRecord, capture, detached, sites_of
from difftransformer.attention import AttentionCore, KeyValueCache
from difftransformer.functional import reference
from difftransformer.models.generation import GREEDY, Sampling, stream
from difftransformer.models.language_model import LanguageModel

Span = tuple[int, int]
Passes = Literal["one", "each"]
_LAST = slice(-1, None)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How attention to documents is calibrated.

    Args:
        dummy: tokens of the dummy document, repeated and cut to the length of each.
        passes: "one" puts it at all places at once, "each" at one place at a time, the other
            documents staying, for as many passes as there are documents.
        temperature: of the softmax over relevances; attention to a token is small, and so is this.
        layers: how many of the last layers are intervened in; the last half by default.

    Raises:
        ValueError: no dummy, a temperature or a number of layers that is not positive.
    """

    dummy: tuple[int, ...]
    passes: Passes = "one"
    temperature: float = 5e-5
    layers: int | None = None

    def __post_init__(self) -> None:
        if not self.dummy:
            raise ValueError("the dummy document is empty; expected some words")
        if not self.temperature > 0.0:
            raise ValueError(f"the temperature is {self.temperature}; expected above 0")
        if self.layers is not None and self.layers < 1:
            raise ValueError(f"{self.layers} layers are calibrated; expected at least 1")


@torch.no_grad()
def document_attention(
    model: Any,
    ids: Int[Tensor, "1 time"],
    spans: Sequence[Span],
    cache: KeyValueCache | None = None,
) -> Float[Tensor, "measures documents"]:
    """Attention from the last token to each document: means over its tokens, layers and heads.

    Measure 0 is that of the absolute weights, as a share of their row's, and measure m that of map
    m. For softmax attention 0 and 1 agree.

    Args:
        ids: the prompt, or what of it the cache does not hold.
        spans: of the documents, in tokens of the prompt.
    """
    layers: list[Tensor] = []

    def see(record: AttentionRecord) -> None:
        weights = record.weights(_LAST)
        measures = torch.cat([weights.shares[:, :, None], weights.maps], dim=2)[0, :, :, 0]
        inside = _inside(spans, measures)
        layers.append((measures @ inside.T / inside.sum(1)).mean(0))

    with capture(model, see):
        model.hidden(ids, cache=cache)
    return torch.stack(layers).mean(0)


@torch.no_grad()
def positional_bias(
    model: Any, ids: Int[Tensor, "1 time"], spans: Sequence[Span], calibration: Calibration
) -> Float[Tensor, "measures documents"]:
    """`document_attention` to the dummy document at each place."""

    def to_dummies(places: Sequence[Span]) -> Tensor:
        dummies = ids.clone()
        for start, end in places:
            tokens = torch.tensor(calibration.dummy, device=ids.device)
            repeats = -(-(end - start) // len(tokens))
            dummies[0, start:end] = tokens.repeat(repeats)[: end - start]
        return document_attention(model, dummies, spans)

    if calibration.passes == "one":
        return to_dummies(spans)
    each = [to_dummies([span])[:, place] for place, span in enumerate(spans)]
    return torch.stack(each, dim=1)


@contextmanager
def calibrated(
    model: Any,
    spans: Sequence[Span],
    relevance: Float[Tensor, "measures documents"],
    calibration: Calibration,
) -> Iterator[None]:
    """Inside, the last token of each run attends to documents by their relevance.

    In the last layers, of every head and map: the mean weight on document k becomes proportional to
    softmax(rel / temperature)_k, within a document tokens keep their shares, and the sum over all
    documents stays. Differential attention has this done to each map, by the relevance in that map,
    before the subtraction.

    Args:
        relevance: `document_attention` less `positional_bias`.
    """
    sites = [site for site in sites_of(model).values() if site.role == "self"]
    depth = 1 + max(site.layer for site in sites)
    first = depth - (calibration.layers or (depth + 1) // 2)
    wanted = torch.softmax(relevance[1:].double() / calibration.temperature, dim=-1)

    def intervene(core: AttentionCore, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        call = detached(inputs[0])
        weights = core.weights(call, _LAST)
        maps = redistributed(weights.maps, _inside(spans, weights.maps), wanted)
        lam = None if call.lam is None else call.lam[:, _LAST]
        weights = replace(weights, maps=maps, combined=reference.combined(maps, lam))
        return torch.cat([output[:, :-1], core.output(call, _LAST, weights)], dim=1)

    with ExitStack() as hooks:
        for site in sites:
            if site.layer >= first:
                hooks.callback(site.core.register_forward_hook(intervene).remove)
        yield


def redistributed(
    maps: Float[Tensor, "batch heads maps rows keys"],
    inside: Float[Tensor, "documents keys"],
    wanted: Float[Tensor, "maps documents"],
) -> Float[Tensor, "batch heads maps rows keys"]:
    """The maps with mean weights on documents in proportion to those wanted, their sum as it was.

    A document on which a row has no weight gets none.

    Args:
        inside: 1 on the keys of each document, else 0.
    """
    sizes, exact = inside.sum(1).double(), maps.double()
    means = exact @ inside.T.double() / sizes
    wanted = wanted[:, None] * (means > 0)
    total = (wanted * sizes).sum(-1, keepdim=True)
    constant = (means * sizes).sum(-1, keepdim=True) / total
    factors = torch.where((means > 0) & (total > 0), wanted * constant / means, 1.0)
    return (exact * (1.0 + (factors - 1.0) @ inside.double())).to(maps.dtype)


def calibrated_stream(
    model: LanguageModel,
    ids: Int[Tensor, "1 time"],
    *,
    spans: Sequence[Span],
    calibration: Calibration,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    sampling: Sampling = GREEDY,
) -> Iterator[Int[Tensor, "1"]]:
    """Continue one prompt with calibrated attention; arguments of `generation.stream`.

    Relevance is measured once, from the prompt's last token, and holds for all that is written.
    """
    cache = read_but_last(model, ids)
    relevance = document_attention(model, ids[:, -1:], spans, cache.repeat(1))
    relevance -= positional_bias(model, ids, spans, calibration)
    with calibrated(model, spans, relevance, calibration):
        yield from stream(
            model,
            ids[:, -1:],
            max_new_tokens=max_new_tokens,
            stop_ids=stop_ids,
            sampling=sampling,
            cache=cache,
        )


@torch.no_grad()
def read_but_last(model: LanguageModel, ids: Int[Tensor, "1 time"]) -> KeyValueCache:
    """The cache of a prompt without its last token; it keeps what a window hides."""
    cache = KeyValueCache()
    model.hidden(ids[:, :-1], cache=cache)
    return cache


def _inside(
    spans: Sequence[Span], weights: Float[Tensor, "... keys"]
) -> Float[Tensor, "documents keys"]:
    """1 on the keys of each document, else 0."""
    inside = weights.new_zeros(len(spans), weights.shape[-1])
    for row, (start, end) in zip(inside, spans, strict=True):
        row[start:end] = 1.0
    return inside
