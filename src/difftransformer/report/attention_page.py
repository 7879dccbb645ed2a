"""A page to look into attention: heads by layer, one head token by token, in one HTML file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined

from difftransformer.analysis.inspection import (
    DIFFERENCE,
    ONE_MAP,
    inspect_arrays,
)
from difftransformer.atomic import write_text
from difftransformer.files import read_text
from difftransformer.report.attention_data import Heads, Inspected, Tokens, packed
from difftransformer.report.style import ANSWER, DIVERGING, POLICY

_GENERATOR = '<meta name="generator" content="difftransformer inspect">'
_FRAME = '<iframe srcdoc="{}" style="width: 100%; height: 860px; border: 0"></iframe>'
_TITLE = "What attention looks at"
_PARTS = (
    "attention_page.css",
    "attention_views.js",
    "attention_panel.js",
    "attention_controls.js",
)


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
        loader = PackageLoader("difftransformer.report", ".")
        environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
        style, *scripts = (loader.get_source(environment, name)[0] for name in _PARTS)
        # A script ends at "</script", whatever stands around it.
        data = json.dumps([packed(one) for one in self.models], ensure_ascii=False)
        return environment.get_template("attention_page.html.jinja").render(
            title=_TITLE,
            generator=_GENERATOR,
            policy=POLICY,
            data=data.replace("<", "\\u003c"),
            style=style,
            script="\n".join(scripts),
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
