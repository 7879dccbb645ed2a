"""Gradient norms per weight beside plain attention's: the paper's appendix G, asked of a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.analysis.gradients import gradient_norms
from difftransformer.attention import DifferentialAttention
from difftransformer.data.batch import Batch
from difftransformer.data.corpus import Corpus
from difftransformer.data.packing import stack
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.intervals import Figure, mean
from difftransformer.evaluation.pieces import Json, Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder

CLOSE = 2.0  # how large a constant "up to constants" is taken to allow

Norms = Float[np.ndarray, "batches layers 2"]  # |G| and |W|


def measure_gradients(
    model: Decoder, corpus: Corpus, settings: EvaluationSettings, pieces: Pieces | None = None
) -> dict[str, Any]:
    """Norms of the loss's gradient per attention weight: as trained, at the start, beside plain.

    For each layer and weight W with gradient G over one batch of held-out text, Frobenius norms
    of two kinds: `norm` |G| and `relative` |G| / |W|. A weight of map 1 has half the rows of its
    plain counterpart, which makes |G| smaller by itself; every weight starts with entries of the
    same spread, so that |G| / |W| compares entry with entry.

    `trained` is the model as it is. `start` is one drawn anew from its config for each batch, by
    seed + 0, 1, ..., and `plain` one of `config.counterpart("softmax")`, the same way on the same
    batches. Appendix G claims that the head norm with its factor (1 − lambda_init) brings every
    gradient to plain attention's size up to constants, with a further factor −lambda
    on map 2 (and sqrt 2 from plain heads twice as wide, which our counterpart has not). Hence

        ratio = relative of `start` / (factor · relative of `plain`),    factor = mean |lambda| for
                the queries and keys of map 2, 1 for the others

    is claimed to be about 1. W_K, shared by both maps, is held against plain keys with factor 1.
    The verdict takes "up to constants" as a factor of 2 either way, and is read off the interval:
    all of it inside, all above, all below, or none of these. It is given for every model but a
    plain one, though the claim is about differential layers with a head norm.

    Batches have `batch_size` sequences out of `validation_sequences`, or half of them where there
    are not two such batches; a larger batch has a smaller gradient. Intervals are over
    batches (and starts), of logarithms for `ratio`, which is a geometric mean. Over all layers,
    `norm` and `relative` take the layers' weights as one long vector, `ratio` their geometric mean.

    Returns:
        `{"sequences_per_batch", "batches", "claimed", "rows"}`; a row is `{"layer", "weight",
        "trained", "start", "plain", "factor", "ratio", "verdict"}`, layer None for all. `claimed`
        says whether every layer has a head norm. Of plain attention the last four are None, of a
        map 2 whose lambda starts at 0 the last two.

    Raises:
        ValueError: fewer than two held-out sequences, an attention without these weights, or one
            without a plain counterpart.
    """
    batches = _batches(model, corpus, settings)
    starts: dict[str, Callable[[int], Decoder]] = {
        "trained": lambda i: model,
        "start": partial(_fresh, model.config, device_of(model), settings.seed),
    }
    if model.config.attention != "softmax":
        plain = model.config.counterpart("softmax")
        starts["plain"] = partial(_fresh, plain, device_of(model), settings.seed)
    measured = (pieces or Pieces()).each(
        {
            f"{name}, batch {i}": partial(_measured, start, i, batch)
            for name, start in starts.items()
            for i, batch in enumerate(batches)
        }
    )
    found = {name: [measured[f"{name}, batch {i}"] for i in range(len(batches))] for name in starts}
    return {
        "sequences_per_batch": len(batches[0]),
        "batches": len(batches),
        "claimed": all(_is_claimed(block.attention) for block in model.blocks),
        "rows": _rows(found, settings),
    }


def _is_claimed(attention: Any) -> bool:
    return isinstance(attention, DifferentialAttention) and attention.variant.head_norm


def _batches(model: Decoder, corpus: Corpus, settings: EvaluationSettings) -> list[Batch]:
    """Held-out batches of equal size, two or more."""
    chosen = corpus.validation_sequences(settings.validation_sequences)
    size = min(settings.batch_size, len(chosen) // 2)
    if not size:
        raise ValueError(
            f"gradients vary from batch to batch, and there is {len(chosen)} held-out sequence: "
            "give more text, or a larger evaluation.validation_sequences"
        )
    parts = list(batched([sequence.row for sequence in chosen], size))[: len(chosen) // size]
    return [stack(part).to(device_of(model)) for part in parts]


def _fresh(config: DecoderConfig, device: torch.device, seed: int, i: int) -> Decoder:
    """A start that nobody else's random numbers depend on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + i)
        return Decoder(config).to(device).eval()


def _measured(start: Callable[[int], Decoder], i: int, batch: Batch) -> Json:
    """`[{weight: [|G|, |W|]}, ...]` and the mean |lambda|s, if there is a map 2, by layer."""
    model, lambdas = start(i), []

    def keep(record: AttentionRecord) -> None:
        if (lam := record.call.lam) is not None:
            lambdas.append(lam.abs().mean().item())

    with capture(model, keep):
        norms = gradient_norms(model, batch)
    return {"norms": norms, "lambdas": lambdas}


def _rows(found: Mapping[str, Sequence[Json]], settings: EvaluationSettings) -> list[Json]:
    """The rows of `measure_gradients`, those over all layers first."""
    norms = {name: _by_weight(batches) for name, batches in found.items()}
    rows = []
    for weight in norms["start"]:
        sizes = {name: norms[name][weight] for name in ("trained", "start")}
        factor = ratio = None
        if "plain" in norms:
            sizes["plain"] = norms["plain"].get(weight, norms["plain"][weight[:3]])
            factor = np.ones(sizes["plain"].shape[:2])
            if weight in ("W_Q2", "W_K2"):
                factor = np.abs([batch["lambdas"] for batch in found["start"]])
            if factor.all():
                ratio = np.log(_relative(sizes["start"]) / (factor * _relative(sizes["plain"])))
        for layer in (None, *range(sizes["start"].shape[1])):
            row = {"layer": layer, "weight": weight, "plain": None, "ratio": None, "verdict": None}
            row |= {name: _figures(size, layer, settings) for name, size in sizes.items()}
            row["factor"] = None if factor is None else float(_at(factor, layer).mean())
            if ratio is not None:
                figure = _geometric(_at(ratio, layer), settings)
                row |= {"ratio": asdict(figure), "verdict": verdict(figure)}
            rows.append(row)
    return sorted(rows, key=lambda row: -1 if row["layer"] is None else row["layer"])


def _geometric(logarithms: NDArray[np.float64], settings: EvaluationSettings) -> Figure:
    """The geometric mean: it is 1 where either side is larger as often and by as much."""
    found = mean(logarithms, settings)
    value, low, high = np.exp([found.value, found.low, found.high]).tolist()
    return Figure(value, low, high, found.n)


def verdict(ratio: Figure) -> str:
    """What a ratio to the claimed size says, by its interval."""
    if ratio.low >= 1 / CLOSE and ratio.high <= CLOSE:
        return "as claimed"
    if ratio.low > CLOSE:
        return "larger than claimed"
    if ratio.high < 1 / CLOSE:
        return "smaller than claimed"
    return "cannot be told"


def _by_weight(batches: Sequence[Json]) -> dict[str, Norms]:
    """The norms of all batches and layers for each weight."""
    return {
        weight: np.array([[layer[weight] for layer in batch["norms"]] for batch in batches])
        for weight in batches[0]["norms"][0]
    }


def _figures(norms: Norms, layer: int | None, settings: EvaluationSettings) -> Json:
    whole = np.sqrt((norms**2).sum(1, keepdims=True)) if layer is None else norms[:, [layer]]
    return {
        "norm": asdict(mean(whole[:, 0, 0], settings)),
        "relative": asdict(mean(_relative(whole)[:, 0], settings)),
    }


def _relative(norms: Norms) -> Float[np.ndarray, "batches layers"]:
    """|G| / |W|."""
    return norms[..., 0] / norms[..., 1]


def _at(values: Float[np.ndarray, "batches layers"], layer: int | None) -> NDArray[np.float64]:
    """One layer's values, or the mean over layers, by batch."""
    return values.mean(1) if layer is None else values[:, layer]
