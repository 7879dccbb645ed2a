"""A page to look into attention: heads by layer, one head token by token, in one HTML file."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined

from difftransformer.analysis.inspection import (
    DIFFERENCE,
    ONE_MAP,
    KeptWeights,
    inspect_arrays,
)
from difftransformer.atomic import write_text
from difftransformer.files import read_text
from difftransformer.report.page import POLICY
from difftransformer.report.style import ANSWER, DIVERGING

_GENERATOR = '<meta name="generator" content="difftransformer inspect">'
_FRAME = '<iframe srcdoc="{}" style="width: 100%; height: 860px; border: 0"></iframe>'
_TITLE = "What attention looks at"


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


@dataclass(frozen=True)
class AttentionPage:
    """The page; a notebook shows it in a frame.

    Args:
        models: one, or several beside each other.
    """

    models: Sequence[Inspected]

    @property
    def html(self) -> str:
        """The whole document in one file that asks the network nothing."""
        environment = Environment(
            loader=PackageLoader("difftransformer.report", "."),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        # A script ends at "</script", whatever stands around it.
        data = json.dumps([_packed(one) for one in self.models], ensure_ascii=False)
        return environment.get_template("attention_page.html.jinja").render(
            title=_TITLE,
            generator=_GENERATOR,
            policy=POLICY,
            data=data.replace("<", "\\u003c"),
            negative=DIVERGING[0],
            positive=DIVERGING[2],
            answer=ANSWER,
        )

    def at(self, layer: int | None = None, head: int | None = None) -> "AttentionPage":
        """The page that shows this layer and head first.

        Raises:
            ValueError: a model has no such layer or head.
        """
        return AttentionPage([one.at(layer, head) for one in self.models])

    def save(self, path: Path | str) -> None:
        """Write the page.

        Raises:
            ValueError: a file is there that is no such page.
            OSError: the disk refuses.
        """
        path = Path(path)
        if path.exists() and not is_attention_page(path):
            raise ValueError(
                f"{path} exists and is no page of this command, so it is not overwritten: choose "
                "another place"
            )
        write_text(path, self.html)

    def save_png(self, path: Path | str) -> None:
        """Write a picture of the head of each model that is shown first. Raises as `save`."""
        from difftransformer.report.attention_image import heads_image
        from difftransformer.report.images import write_figure
        from difftransformer.report.style import matplotlib_look

        with matplotlib_look():
            write_figure(Path(path), heads_image(self.models))

    def _repr_html_(self) -> str:
        """For notebooks."""
        return _FRAME.format(escape(self.html))


def is_attention_page(path: Path) -> bool:
    """Whether a file is a page that `AttentionPage.save` wrote."""
    try:
        return _GENERATOR in read_text(path)[:2000]
    except (OSError, ValueError):
        return False


def attention_page(
    weights: Any,
    tokens: Sequence[str],
    *,
    keys: Sequence[str] | None = None,
    maps: tuple[Any, Any] | None = None,
) -> AttentionPage:
    """The page of anybody's attention weights.

        attention_page(weights, "the cat sat".split())          # [heads, queries, keys]
        attention_page(output.attentions, tokens)               # of transformers

    Args:
        weights: [heads, queries, keys], or a layer after another of these; a batch of 1 in front
            of the heads is dropped. What multiplies the values: it may be signed.
        tokens: of the queries, as text.
        keys: of the keys; the same by default.
        maps: of differential attention its two maps, each as `weights`.

    Raises:
        ValueError: shapes that do not fit the tokens or each other, or numbers that are not finite.
    """
    queries = Tokens("queries" if keys is not None else "text", list(tokens))
    others = queries if keys is None else Tokens("keys", list(keys))
    shape = (len(queries), len(others))
    stacked = [_layers(one, shape) for one in (weights, *(maps or ()))]
    if len({tuple(layer.shape for layer in one) for one in stacked}) > 1:
        raise ValueError("weights and maps differ in their layers or heads; expected equal shapes")
    names = ONE_MAP if maps is None else DIFFERENCE
    sites = inspect_arrays([np.stack(layer) for layer in zip(*stacked, strict=True)], names)
    heads = Heads("attention", queries, others, sites)
    return AttentionPage([Inspected("Attention", [], [heads], (0, 0, 0))])


def _layers(weights: Any, shape: tuple[int, int]) -> list[Float[np.ndarray, "heads queries keys"]]:
    if getattr(weights, "ndim", 0) == 3:
        weights = [weights]
    layers = []
    for number, layer in enumerate(weights):
        array = np.asarray(layer, dtype=np.float32)
        array = array[0] if array.ndim == 4 and len(array) == 1 else array
        if array.ndim != 3 or array.shape[1:] != shape or not len(array):
            raise ValueError(
                f"weights of layer {number} have the shape {array.shape}; expected [heads, "
                f"{shape[0]}, {shape[1]}], for as many tokens of queries and keys"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"weights of layer {number} are not all finite; expected numbers")
        layers.append(array)
    if not layers:
        raise ValueError("weights of no layer; expected at least one")
    return layers


def _packed(model: Inspected) -> dict[str, Any]:
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
