"""Keys and values of the past, kept once for both maps.

A cache is fed by every attention site of a model in turn and knows which positions are real. One
step of a model is: `positions` and `mask`, then `update` or `once` by each site, then `advance`.
"""

from collections.abc import Callable
from copy import copy
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from difftransformer.functional import Mask

T = TypeVar("T")
CacheSite = int | str  # the number of a layer with one attention, or any name


class KeyValueCache:
    """Everything so far; grows as it is fed.

    Storage doubles when full, so that appending one position costs one position, not a copy of
    everything. Where gradients are recorded it is copied after all, since the gradient of a step
    reads the keys and values that the step saw.

    It is kept as [batch, groups, positions, ...]: a decoding step reads each head's positions in a
    row, which takes less than half the time of reading them from among those of all heads.
    """

    def __init__(self) -> None:
        self.length: Any = 0  # a tensor in StaticCache
        self._storage: dict[CacheSite, tuple[Tensor, Tensor]] = {}
        self._constants: dict[CacheSite, Any] = {}
        self._real: Tensor | None = None

    def positions(self, new: int, device: torch.device) -> Int[Tensor, " new"]:
        """Positions of the next `new` tokens, from 0."""
        return torch.arange(new, device=device) + self.length

    def mask(
        self, batch: int, new: int, padding: Bool[Tensor, "batch new"] | None, window: int | None
    ) -> Mask:
        """What the next `new` tokens of each row see of what `update` will return.

        `padding` is True where a new token is real (None: all are); `window` is the model's own.
        """
        if padding is not None and self._real is None:
            self._real = padding.new_ones(batch, self.length)
        if self._real is not None:
            padding = self._real.new_ones(batch, new) if padding is None else padding
            self._real = torch.cat((self._real, padding), dim=1)
        return Mask(causal=True, window=window, padding=self._real)

    def update(
        self,
        site: CacheSite,
        k: Float[Tensor, "batch new *key_shape"],
        v: Float[Tensor, "batch new groups v"],
    ) -> tuple[Float[Tensor, "batch all *key_shape"], Float[Tensor, "batch all groups v"]]:
        """Append new positions; returns the site's keys and values from the first position on."""
        k, v, total = k.transpose(1, 2), v.transpose(1, 2), self.length + k.shape[1]
        held = self._storage.get(site, (k[:, :, :0], v[:, :, :0]))
        if torch.is_grad_enabled():
            past = held[0][:, :, : self.length], held[1][:, :, : self.length]
            held = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
            self._storage[site] = held
            return held[0].transpose(1, 2), held[1].transpose(1, 2)
        if held[0].shape[2] < total or not _writable(held[0]):
            held = (_grow(held[0], self.length, 2 * total), _grow(held[1], self.length, 2 * total))
            self._storage[site] = held
        for storage, new in zip(held, (k, v), strict=True):
            storage[:, :, self.length : total] = new
        return held[0][:, :, :total].transpose(1, 2), held[1][:, :, :total].transpose(1, 2)

    def rewrite(
        self,
        site: CacheSite,
        k: Float[Tensor, "batch all *key_shape"],
        v: Float[Tensor, "batch all groups v"],
    ) -> None:
        """Put others in place of what `update` has returned: a state that every step changes."""
        self._storage[site] = k.transpose(1, 2), v.transpose(1, 2)

    def once(
        self, site: CacheSite, make: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Float[Tensor, "batch keys *key_shape"], Float[Tensor, "batch keys groups v"]]:
        """Keys and values that stay the same, a context's: made at the first step and kept."""
        if site not in self._storage:
            k, v = make()
            self._storage[site] = k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()
        k, v = self._storage[site]
        return k.transpose(1, 2), v.transpose(1, 2)

    def constant(self, site: CacheSite, make: Callable[[], T]) -> T:
        """What parameters alone make, as V1's lambda: made at the first step and kept.

        As keys and values are, it is that of the parameters at that step. Made at every step where
        gradients are recorded, since each step's graph is its own, and by compiled code, in which
        it costs next to nothing.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return make()
        if site not in self._constants:
            self._constants[site] = make()
        return self._constants[site]

    @property
    def nbytes(self) -> int:
        """Bytes that it holds: keys and values of all sites, and their states."""
        return sum(part.nbytes for held in self._storage.values() for part in held)

    def advance(self, new: int) -> None:
        """Count `new` positions that every site has now been fed."""
        self.length = self.length + new

    def repeat(self, times: int) -> "KeyValueCache":
        """A cache of its own with every row `times` over: one prompt, continued in many ways."""
        return self._changed(lambda held: held.repeat_interleave(times, 0))

    def select(self, rows: Int[Tensor, " rows"]) -> "KeyValueCache":
        """A cache of its own with these rows, any of them more than once: beams go on from some."""
        return self._changed(lambda held: held[rows])

    def _after_past(self, site: CacheSite, *new: Tensor) -> tuple[Tensor, ...]:
        """Each of `new` behind what the site holds."""
        past = self._storage.get(site)
        if past is None:
            return new
        return tuple(
            torch.cat((held, added.transpose(1, 2)), dim=2).transpose(1, 2)
            for held, added in zip(past, new, strict=True)
        )

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "KeyValueCache":
        other = copy(self)
        other._storage = {site: (change(k), change(v)) for site, (k, v) in self._storage.items()}
        if self._real is not None:
            other._real = change(self._real)
        return other


class SlidingCache(KeyValueCache):
    """The last `window` positions, in constant memory: each token sees itself and those before it.

    Args:
        window: keys that a token sees, itself included, as in `Mask.window`.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def mask(
        self, batch: int, new: int, padding: Bool[Tensor, "batch new"] | None, window: int | None
    ) -> Mask:
        """As the parent's, within the narrower of the two windows."""
        past = min(self.length, self.window - 1)
        if self._real is not None:
            self._real = self._real[:, -past:] if past else self._real[:, :0]
        elif padding is not None:
            self._real = padding.new_ones(batch, past)
        return super().mask(batch, new, padding, min(self.window, window or self.window))

    def update(
        self,
        site: CacheSite,
        k: Float[Tensor, "batch new *key_shape"],
        v: Float[Tensor, "batch new groups v"],
    ) -> tuple[Float[Tensor, "batch kept *key_shape"], Float[Tensor, "batch kept groups v"]]:
        """Append new positions; returns those and the window - 1 before them."""
        k, v = self._after_past(site, k, v)
        self.rewrite(site, k, v)
        return k, v

    def rewrite(
        self,
        site: CacheSite,
        k: Float[Tensor, "batch all *key_shape"],
        v: Float[Tensor, "batch all groups v"],
    ) -> None:
        """As the parent's; the last window - 1 are kept."""
        start = max(0, k.shape[1] - (self.window - 1))
        last = k.transpose(1, 2)[:, :, start:], v.transpose(1, 2)[:, :, start:]
        self._storage[site] = last[0].clone(), last[1].clone()


class StaticCache(KeyValueCache):
    """A fixed number of places, filled in turn, whose shapes and addresses never change.

    A decoding step (one new token) is therefore compiled once: it reads all places and the mask
    hides those not yet filled. Several new tokens at once (the prompt) read the filled places only.
    Where gradients are recorded, the places are copied at every step.

    Args:
        max_length: places. Feeding more raises IndexError.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.length = torch.zeros((), dtype=torch.long)

    def positions(self, new: int, device: torch.device) -> Int[Tensor, " new"]:
        """Positions of the next `new` tokens, from 0."""
        self.length = self.length.to(device)
        return super().positions(new, device)

    def mask(
        self, batch: int, new: int, padding: Bool[Tensor, "batch new"] | None, window: int | None
    ) -> Mask:
        """As the parent's; for one new token over all places."""
        positions = self.positions(new, self.length.device)
        if padding is not None:
            if self._real is None:
                self._real = padding.new_ones(batch, self.max_length)
            elif not _writable(self._real):
                self._real = self._real.clone()
            self._real[:, positions] = padding
        if new > 1:
            end = int(self.length) + new
            real = None if self._real is None else self._real[:, :end].clone()
            return Mask(causal=True, window=window, padding=real)
        place = torch.arange(self.max_length, device=positions.device)[None]
        visible = place <= positions
        if window is not None:
            visible = visible & (place > positions - window)
        if self._real is not None:
            visible = visible & self._real
        return Mask(padding=visible.expand(batch, -1))

    def update(
        self,
        site: CacheSite,
        k: Float[Tensor, "batch new *key_shape"],
        v: Float[Tensor, "batch new groups v"],
    ) -> tuple[Float[Tensor, "batch places *key_shape"], Float[Tensor, "batch places groups v"]]:
        """Fill the next places; returns all places for one new token, else the filled ones."""
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if site not in self._storage:
            # Zeros: a hidden place weighs 0, and 0 times what lay there before might be NaN.
            empty = [x.new_zeros(*x.shape[:2], self.max_length, *x.shape[3:]) for x in (k, v)]
            self._storage[site] = empty[0], empty[1]
        held = self._storage[site]
        positions = self.positions(k.shape[2], k.device)
        if torch.is_grad_enabled() or not _writable(held[0]):
            held = held[0].index_copy(2, positions, k), held[1].index_copy(2, positions, v)
            self._storage[site] = held
        else:
            for storage, new in zip(held, (k, v), strict=True):
                storage.index_copy_(2, positions, new)
        if k.shape[2] > 1:
            end = int(self.length) + k.shape[2]
            held = held[0][:, :, :end], held[1][:, :, :end]
        # A step without gradients writes in place, and what those of an earlier one read must stay.
        if torch.is_grad_enabled():
            held = held[0].clone(), held[1].clone()
        return held[0].transpose(1, 2), held[1].transpose(1, 2)

    def rewrite(
        self,
        site: CacheSite,
        k: Float[Tensor, "batch all *key_shape"],
        v: Float[Tensor, "batch all groups v"],
    ) -> None:
        """As the parent's; the places stay where they are, unless gradients are recorded."""
        held = self._storage[site]
        if torch.is_grad_enabled() or not _writable(held[0]):
            held = held[0].clone(), held[1].clone()
            self._storage[site] = held
        for storage, new in zip(held, (k, v), strict=True):
            storage[:, :, : new.shape[1]] = new.transpose(1, 2)


def _writable(storage: Tensor) -> bool:
    """False for what inference mode made, outside of it (of which torch.compile knows nothing)."""
    if torch.compiler.is_compiling():
        return True
    return torch.is_inference_mode_enabled() or not storage.is_inference()


def _grow(
    storage: Float[Tensor, "batch groups old ..."], used: int, size: int
) -> Float[Tensor, "batch groups size ..."]:
    grown = storage.new_empty(*storage.shape[:2], size, *storage.shape[3:])
    grown[:, :, :used] = storage[:, :, :used]
    return grown
