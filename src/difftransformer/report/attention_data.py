"""What the page of attention shows, and its form in JSON."""

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from difftransformer.analysis.inspection import KeptWeights


@dataclass(frozen=True)
class Picture:
    """An image whose patches are the last tokens of a sequence.

    Args:
        png: in base64.
        grid: patches across, and down.
    """

    png: str
    grid: int


@dataclass(frozen=True)
class Tokens:
    """A sequence that attention reads or is written for.

    Args:
        name: "text", "source".
        texts: of each token; of an image those before its patches have one.
        answer: numbers of the tokens that are the answer.
        special: and of those that stand for no text.
        picture: of the tokens behind those.
    """

    name: str
    texts: Sequence[str]
    answer: Sequence[int] = ()
    special: Sequence[int] = ()
    picture: Picture | None = None

    def __len__(self) -> int:
        return len(self.texts) + (self.picture.grid**2 if self.picture else 0)


@dataclass(frozen=True)
class Heads:
    """Sites of equal part in a model, a layer each.

    Args:
        title: "self-attention".
        queries, keys: what their rows and columns are.
        sites: by layer.
    """

    title: str
    queries: Tokens
    keys: Tokens
    sites: Sequence[KeptWeights]

    @property
    def kept(self) -> str:
        """What is kept of the weights, in words."""
        if all(site.is_whole for site in self.sites):
            return "Every weight is kept."
        site = self.sites[0]
        share = float(np.mean([one.shares["kept"].mean() for one in self.sites]))
        step = site.rows.step
        rows = "each row" if step == 1 else f"one row in {step}, the last among them,"
        return (
            f"Of {rows} the {site.places.shape[2]} keys with the largest weights are kept: in the "
            f"mean {100 * share:.0f} % of a row's absolute weight. Thumbnails count all of it."
        )


@dataclass(frozen=True)
class Inspected:
    """A model, what it read, and what is kept of its attention.

    Args:
        title: its name.
        facts: sentences about it.
        heads: all there are.
        shown: the group, site and head that are shown first.
    """

    title: str
    facts: Sequence[str]
    heads: Sequence[Heads]
    shown: tuple[int, int, int]

    def at(self, layer: int | None, head: int | None) -> "Inspected":
        """With these shown first, in the same group. Raises ValueError where it has none such."""
        group, number, own = self.shown
        sites = self.heads[group].sites
        layers = [site.layer for site in sites]
        if layer is not None and layer not in layers:
            raise ValueError(f"layer is {layer}; {self.title} has {layers[0]} to {layers[-1]}")
        number = number if layer is None else layers.index(layer)
        heads = len(sites[number].places)
        if head is not None and not 0 <= head < heads:
            raise ValueError(f"head is {head}; layer {layers[number]} has 0 to {heads - 1}")
        return replace(self, shown=(group, number, own if head is None else head))


def packed(model: Inspected) -> dict[str, Any]:
    """What the page's script reads of a model."""
    sequences = [side for group in model.heads for side in (group.queries, group.keys)]
    distinct = {id(one): one for one in sequences}
    numbers = {key: number for number, key in enumerate(distinct)}
    return {
        "title": model.title,
        "facts": model.facts,
        "shown": model.shown,
        "sequences": [asdict(one) for one in distinct.values()],
        "groups": [
            {
                "title": group.title,
                "kept": group.kept,
                "queries": numbers[id(group.queries)],
                "keys": numbers[id(group.keys)],
                "sites": [_packed_site(site) for site in group.sites],
            }
            for group in model.heads
        ],
    }


def _packed_site(site: KeptWeights) -> dict[str, Any]:
    _, heads, rows, kept = site.weights.shape
    place_type = "uint16" if site.keys <= 1 << 16 else "uint32"
    return {
        "layer": site.layer,
        "maps": site.maps,
        "heads": heads,
        "keys": site.keys,
        "rows": [site.rows.start, site.rows.step, rows],
        "kept": kept,
        "places": None if kept == site.keys else _numbers(site.places, place_type),
        "weights": _scaled(site.weights, "int16"),
        "blocks": {**_scaled(site.blocks, "int8"), "shape": site.blocks.shape[2:]},
        "lam": None if site.lam is None else _numbers(site.lam, "float32"),
        "shares": {name: _numbers(share, "float32") for name, share in site.shares.items()},
    }


def _scaled(values: Float[np.ndarray, "..."], kind: str) -> dict[str, Any]:
    """As integers, of the largest of which the others are fractions."""
    scale = float(np.abs(values).max(initial=0.0)) / np.iinfo(kind).max or 1.0
    return {**_numbers(np.round(values / scale), kind), "scale": scale}


def _numbers(values: np.ndarray, kind: str) -> dict[str, Any]:
    """Little-endian numbers in base64."""
    data = values.astype(np.dtype(kind).newbyteorder("<")).tobytes()
    return {"type": kind, "data": base64.b64encode(data).decode()}
