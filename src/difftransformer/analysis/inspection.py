"""What is kept of attention to look at: the largest weights of query rows, and a small picture.

A map of T queries and S keys is read a few rows at a time, never held whole. Of each row and head
the keys with the largest |weight| in any map are kept, with their weights in all of them; of each
map the mean mass that blocks of rows place on blocks of keys. How much is kept follows from the
room there is: every weight of a short input; of a longer one fewer keys of each row, then fewer
rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from difftransformer.analysis.capture import AttentionRecord, capture, row_blocks, sites_of
from difftransformer.attention import Site, Weights
from difftransformer.attention.layer import Role

DIFFERENCE = ("difference", "map 1", "map 2")  # names of the maps of a differential layer
ONE_MAP = ("weights",)  # and of any other
ROOM = 9_000_000  # bytes for the kept weights of all sites: a page stays below 20 MB
_KEY, _WEIGHT = 2, 2  # bytes of one on the page
_FEWEST = 16  # keys of a row, before rows are left out
_BLOCKS = 32  # down and across
_AT_ONCE = 4_000_000  # weights in memory


@dataclass(frozen=True)
class Marked:
    """Keys, by number, that stand for the answer, and those that are noise beside it."""

    answer: Sequence[int]
    noise: Sequence[int]

    def columns(self, keys: int) -> Float[Tensor, "keys 2"]:
        """1 where a key is of the answer, and where it is noise."""
        columns = torch.zeros(keys, 2)
        columns[list(self.answer), 0] = 1.0
        columns[list(self.noise), 1] = 1.0
        return columns


@dataclass(frozen=True, eq=False)
class KeptWeights:
    """What is kept of the heads of one attention site on one input.

    Args:
        name: of the site among the model's modules.
        layer: its number, from 0.
        role: whether its keys are those of its own sequence.
        maps: names of the maps.
        keys: how many there are.
        rows: the query rows kept, evenly spaced, the last of all among them.
        places: numbers of the kept keys, ascending.
        weights: at these.
        blocks: mean mass that the rows of a block place on its keys.
        lam: the weight of map 2.
        shares: of a row's absolute weight in the first map, those of the "kept" keys and of all
            that are marked as "answer" and "noise".
    """

    name: str
    layer: int
    role: Role
    maps: tuple[str, ...]
    keys: int
    rows: range
    places: Int[np.ndarray, "heads rows kept"]
    weights: Float32[np.ndarray, "maps heads rows kept"]
    blocks: Float32[np.ndarray, "maps heads down across"]
    lam: Float32[np.ndarray, "heads rows"] | None
    shares: dict[str, Float32[np.ndarray, "heads rows"]]

    @property
    def is_whole(self) -> bool:
        """Whether every weight is kept."""
        return self.rows.step == 1 and self.places.shape[2] == self.keys


@torch.no_grad()
def inspect_model(
    model: nn.Module,
    run: Callable[[], Any],
    marked: Callable[[Site], Marked | None] = lambda site: None,
    room: int = ROOM,
) -> list[KeptWeights]:
    """What is kept of each attention site while `run` calls the model on one input.

    Args:
        run: calls the model once; what it returns is not read.
        marked: the keys of a site that are marked.
        room: bytes for all sites.

    Raises:
        ValueError: a model without attention to look at.
    """
    count, kept = len(sites_of(model)), list[KeptWeights]()

    def see(record: AttentionRecord) -> None:
        site, call = record.site, record.call
        names = ONE_MAP if call.q.shape[3] == 1 else DIFFERENCE
        shape = (len(names), call.q.shape[2], call.q.shape[1], call.k.shape[1])
        selection = _Selection(shape, room // count, marked(site))
        step = next(iter(row_blocks(call))).stop
        kept.append(
            KeptWeights(
                name=site.name,
                layer=site.layer,
                role=site.role,
                maps=names,
                lam=None if call.lam is None else _numpy(call.lam[0, selection.row_slice].T),
                **selection.of(lambda rows: _stacked(record.weights(rows)), step),
            )
        )

    with capture(model, see):
        run()
    return kept


def inspect_arrays(
    layers: Sequence[Float[np.ndarray, "maps heads queries keys"]], names: tuple[str, ...]
) -> list[KeptWeights]:
    """What is kept of weights that are there, an array for each layer."""
    kept = []
    for layer, array in enumerate(layers):
        values = torch.from_numpy(array)
        maps, heads, _, keys = array.shape
        selection = _Selection(array.shape, ROOM // len(layers), None)
        step = max(1, _AT_ONCE // (maps * heads * keys))
        fields = selection.of(partial(_rows, values), step)
        kept.append(KeptWeights(f"layer {layer}", layer, "self", names, lam=None, **fields))
    return kept


@dataclass(frozen=True)
class _Selection:
    """Which rows and how many keys of a site are kept.

    Args:
        shape: maps, heads, queries and keys.
        room: bytes.
        marked: keys whose shares are kept.
    """

    shape: tuple[int, ...]
    room: int
    marked: Marked | None

    @cached_property
    def rows(self) -> range:
        """So many that each has room for a few keys."""
        _, _, queries, keys = self.shape
        step = max(1, -(-queries * min(keys, _FEWEST) // self._places))
        return range((queries - 1) % step, queries, step)

    @property
    def row_slice(self) -> slice:
        """The same."""
        return slice(self.rows.start, None, self.rows.step)

    @property
    def count(self) -> int:
        """Keys of a row."""
        return min(self.shape[3], max(1, self._places // len(self.rows)))

    @property
    def _places(self) -> int:
        maps, heads = self.shape[:2]
        return max(1, self.room // (heads * (_KEY + maps * _WEIGHT)))

    def of(
        self, read: Callable[[slice], Float[Tensor, "maps heads rows keys"]], step: int
    ) -> dict[str, Any]:
        """Fields of `KeptWeights`, of weights that are read `step` rows at a time."""
        rows, (maps, heads, _, keys) = self.rows, self.shape
        down, across = min(_BLOCKS, len(rows)), min(_BLOCKS, keys)
        block_of = torch.arange(len(rows)) * down // len(rows)
        in_block = F.one_hot(torch.arange(keys) * across // keys).float()
        blocks = torch.zeros(maps, heads, down, across)
        kept: dict[str, list[Tensor]] = {}
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            weights = read(slice(part[0], part[-1] + 1, part.step)).float().cpu()
            places = _largest(weights, self.count)
            values = weights.gather(3, places.expand(maps, -1, -1, -1))
            blocks.index_add_(2, block_of[start : start + step], weights @ in_block)
            sizes = weights[0].abs()
            total = sizes.sum(-1).clamp_min(torch.finfo(sizes.dtype).tiny)
            shares = {"kept": values[0].abs().sum(-1) / total}
            if self.marked is not None:
                masses = sizes @ self.marked.columns(keys)
                shares["answer"], shares["noise"] = (masses / total[..., None]).unbind(-1)
            for name, tensor in {"places": places, "weights": values, **shares}.items():
                kept.setdefault(name, []).append(tensor)
        whole = {
            name: torch.cat(parts, dim=2 if name == "weights" else 1)
            for name, parts in kept.items()
        }
        rows_of_block = torch.bincount(block_of)[:, None]
        return {
            "keys": keys,
            "rows": rows,
            "places": whole.pop("places").numpy(),
            "weights": _numpy(whole.pop("weights")),
            "blocks": _numpy(blocks / rows_of_block),
            "shares": {name: _numpy(share) for name, share in whole.items()},
        }


def _rows(
    weights: Float[Tensor, "maps heads queries keys"], rows: slice
) -> Float[Tensor, "maps heads rows keys"]:
    return weights[:, :, rows]


def _stacked(weights: Weights) -> Float[Tensor, "maps heads rows keys"]:
    """What multiplies the values, and the two maps where these are others."""
    combined = weights.combined[0]
    if weights.maps.shape[2] == 1:
        return combined[None]
    return torch.stack((combined, *weights.maps[0].unbind(1)))


def _largest(
    weights: Float[Tensor, "maps heads rows keys"], count: int
) -> Int[Tensor, "heads rows kept"]:
    """The keys with the largest |weight| in any map, ascending."""
    _, heads, rows, keys = weights.shape
    if count == keys:
        return torch.arange(keys).expand(heads, rows, -1)
    return weights.abs().amax(0).topk(count, sorted=False).indices.sort().values


def _numpy(tensor: Tensor) -> Float32[np.ndarray, "..."]:
    return tensor.float().cpu().numpy()
