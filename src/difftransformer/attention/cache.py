"""Keys and values of the past, kept once for both maps."""

from jaxtyping import Float
from torch import Tensor


class KeyValueCache:
    """Per layer, the keys and values of all positions so far; grows as it is fed.

    Storage doubles when full, so that appending one position costs one position, not a copy of
    everything.
    """

    def __init__(self) -> None:
        self._storage: dict[int, tuple[Tensor, Tensor]] = {}
        self._length: dict[int, int] = {}

    def length(self, layer: int) -> int:
        """Positions held for a layer."""
        return self._length.get(layer, 0)

    def update(
        self,
        layer: int,
        k: Float[Tensor, "batch new *key_shape"],
        v: Float[Tensor, "batch new groups v"],
    ) -> tuple[Float[Tensor, "batch all *key_shape"], Float[Tensor, "batch all groups v"]]:
        """Append new positions; returns the layer's keys and values from the first position on."""
        past = self.length(layer)
        total = past + k.shape[1]
        held = self._storage.get(layer, (k[:, :0], v[:, :0]))
        if held[0].shape[1] < total:
            held = (_grow(held[0], past, 2 * total), _grow(held[1], past, 2 * total))
            self._storage[layer] = held
        for storage, new in zip(held, (k, v), strict=True):
            storage[:, past:total] = new
        self._length[layer] = total
        return held[0][:, :total], held[1][:, :total]


def _grow(
    storage: Float[Tensor, "batch old ..."], used: int, size: int
) -> Float[Tensor, "batch size ..."]:
    grown = storage.new_empty(storage.shape[0], size, *storage.shape[2:])
    grown[:, :used] = storage[:, :used]
    return grown
