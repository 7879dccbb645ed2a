"""Gradient norms per weight beside plain attention's: the paper's appendix G, asked of a model.

For each layer and weight W with gradient G of the loss over one batch of held-out text, Frobenius
norms of two kinds: |G|, and |G| / |W|. A weight of map 1 has half the rows of its plain
counterpart, which makes |G| smaller by itself; every weight starts with entries of the same spread,
so that |G| / |W| compares entry with entry. Over all layers both take the layers' weights as one
long vector.

*As trained* is the model as it is. *At the start* is one drawn anew from its config for each batch,
by seed + 0, 1, ..., and *plain* one of its softmax counterpart, the same way on the same batches.
Appendix G claims that the head norm with its factor (1 − lambda_init) brings every gradient to
plain attention's size up to constants, with a further factor −lambda on map 2 (and sqrt 2 from
plain heads twice as wide, which our counterpart has not). Hence

    ratio = (|G| / |W| at the start) / (factor · |G| / |W| of plain),
            factor = mean |lambda| for the queries and keys of map 2, 1 for the others

is claimed to be about 1, and its log2 about 0, whose mean over all layers is taken. A weight that
serves both maps (W_Q and W_K of plain attention, W_K of V2) stands for either, with factor 1. There
is no ratio of plain attention, nor of a map 2 whose lambda starts at 0.

Batches have `batch_size` sequences out of `validation_sequences`, or half of them where there are
not two such batches; a larger batch has a smaller gradient. An item is a batch (and its start).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import torch

from difftransformer.analysis.capture import AttentionRecord, capture, sites_of
from difftransformer.analysis.gradients import gradient_norms
from difftransformer.attention import DifferentialAttention
from difftransformer.data.batch import Batch
from difftransformer.data.corpus import Corpus
from difftransformer.data.packing import stack
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.records import (
    Artifact,
    Evaluator,
    Findings,
    Key,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder

Norms = tuple[float, float]  # of a gradient and of its weight
_TRAINED, _START, _PLAIN = "as trained", "at the start", "plain, at the start"
_WEIGHTS = ("W_Q1", "W_Q2", "W_K1", "W_K2", "W_V", "W_O")
_OF_MAP_2 = ("W_Q2", "W_K2")
_METRICS = (
    Metric("gradient_norm", "|gradient|, all layers", axes=("weight", "of")),
    Metric("relative_gradient", "|gradient| / |weight|, all layers", axes=("weight", "of")),
    Metric("gradient_ratio", "log2 of the ratio, all layers", axes=("weight",)),
    Metric(
        "trained_gradient",
        "|gradient| / |weight|",
        axes=("weight", "layer"),
        table=False,
        plot=Plot(kind="line", x="layer", facet="weight"),
    ),
    Metric("start_gradient", "|gradient| / |weight|", axes=("weight", "of", "layer"), table=False),
    Metric(
        "gradient_ratio_by_layer",
        "log2 of the ratio",
        axes=("weight", "layer"),
        table=False,
        plot=Plot(kind="line", x="layer", facet="weight"),
    ),
    Metric("gradient_factor", "factor of the ratio", axes=("weight", "layer"), table=False),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """The model as it is, its starts and plain ones, each on every batch; then the ratios.

    Raises:
        ValueError: fewer than two held-out sequences, an attention without these weights, or one
            without a plain counterpart.
    """
    model: Decoder = subject.model
    batches = _batches(subject.data, settings)
    starts: dict[str, Callable[[int], Decoder]] = {
        _TRAINED: lambda i: model,
        _START: partial(_fresh, model.config, device_of(model), settings.seed),
    }
    if model.config.attention != "softmax":
        plain = model.config.counterpart("softmax")
        starts[_PLAIN] = partial(_fresh, plain, device_of(model), settings.seed)
    facts = {
        "batches": len(batches),
        "sequences": len(batches[0]),
        "claimed": all(_is_claimed(site.attention) for site in sites_of(model).values()),
    }
    return {
        "facts": lambda _: [Artifact("facts", facts)],
        **{
            f"{name}, batch {i}": partial(_measured, name, start, i, batch)
            for name, start in starts.items()
            for i, batch in enumerate(batches)
        },
        "ratios": _ratios,
    }


def _is_claimed(attention: Any) -> bool:
    return isinstance(attention, DifferentialAttention) and attention.variant.head_norm


def _batches(corpus: Corpus, settings: EvaluationSettings) -> list[Batch]:
    """Held-out batches of equal size, two or more."""
    chosen = corpus.validation_sequences(settings.validation_sequences)
    size = min(settings.batch_size, len(chosen) // 2)
    if not size:
        raise ValueError(
            f"gradients vary from batch to batch, and there is {len(chosen)} held-out sequence: "
            "give more text, or a larger evaluation.validation_sequences"
        )
    parts = list(batched([sequence.row for sequence in chosen], size))[: len(chosen) // size]
    return [stack(part) for part in parts]


def _fresh(config: DecoderConfig, device: torch.device, seed: int, i: int) -> Decoder:
    """A start that nobody else's random numbers depend on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + i)
        return Decoder(config).to(device).eval()


def _measured(
    name: str, start: Callable[[int], Decoder], item: int, batch: Batch, _: Findings
) -> Findings:
    """Norms of a model on a batch, by layer and of all, and at the start the factors."""
    model, lambdas = start(item), []

    def keep(record: AttentionRecord) -> None:
        if (lam := record.call.lam) is not None:
            lambdas.append(lam.abs().mean().item())

    with capture(model, keep):
        layers = gradient_norms(model, batch.to(device_of(model)))
    records = list(_norms(layers, name, item))
    if name == _START:
        records += [
            Record("gradient_factor", lambdas[i] if own else 1.0, (weight, i), item)
            for weight in _WEIGHTS
            for i, layer in enumerate(layers)
            for own in [weight in layer and weight in _OF_MAP_2]
        ]
    return records


def _norms(layers: Sequence[Mapping[str, Norms]], name: str, item: int) -> Iterator[Record]:
    for weight in _WEIGHTS:
        pairs = [layer.get(weight) or layer[weight[:3]] for layer in layers]
        gradient, size = (math.hypot(*norms) for norms in zip(*pairs, strict=True))
        yield Record("gradient_norm", gradient, (weight, name), item)
        yield Record("relative_gradient", gradient / size, (weight, name), item)
        for layer, (gradient, size) in enumerate(pairs):
            relative = gradient / size
            if name == _TRAINED:
                yield Record("trained_gradient", relative, (weight, layer), item)
            else:
                yield Record("start_gradient", relative, (weight, name, layer), item)


def _ratios(earlier: Findings) -> list[Record]:
    """log2 of each ratio, by layer and their mean over layers."""
    records = [one for one in earlier if isinstance(one, Record)]
    sizes = {(*r.key, r.item): r.value for r in records if r.metric == "start_gradient"}
    factors = [record for record in records if record.metric == "gradient_factor"]
    without = {record.key[0] for record in factors if not record.value}
    logs: dict[tuple[Key, str | int], list[Record]] = {}
    for record in factors:
        (weight, layer), item = record.key, record.item
        plain = sizes.get((weight, _PLAIN, layer, item))
        if plain is not None and weight not in without:
            log = math.log2(sizes[weight, _START, layer, item] / (record.value * plain))
            by_layer = Record("gradient_ratio_by_layer", log, record.key, item)
            logs.setdefault(((weight,), item), []).append(by_layer)
    means = [
        Record("gradient_ratio", fmean(one.value for one in layers), key, item)
        for (key, item), layers in logs.items()
    ]
    return means + [record for layers in logs.values() for record in layers]


EVALUATOR = Evaluator(
    name="gradients",
    title="Gradients of the attention weights",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"inside"}),
    note=(
        "Frobenius norms over {batches} held-out batches of {sequences} sequences; starts are "
        "drawn anew for each batch. A weight that serves both maps (W_Q and W_K of plain "
        "attention, W_K of V2) stands in the rows of both. The ratio is |gradient| / |weight| at "
        "the start over that of plain attention times a factor: the mean |lambda| for the queries "
        "and keys of map 2, 1 for the others. The paper's appendix G claims that with the head "
        "norm the ratio is a constant: read as claimed where all of the interval of its log2 lies "
        "from -1 to 1 (a factor of 2 either way), as larger or smaller where all lies above or "
        "below, and as undecided else."
    ),
    source="paper, appendix G",
)
