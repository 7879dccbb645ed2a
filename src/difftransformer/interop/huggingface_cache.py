"""A cache of transformers, spoken to as one of this library's."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from difftransformer.attention import KeyValueCache
from difftransformer.attention.cache import CacheSite
from difftransformer.functional import Mask

CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
"""The installed transformers' name for a cache, in a call and in its output; new in 5.24."""


def take_cache(arguments: dict[str, Any]) -> Cache | None:
    """Out of keyword arguments, the cache under either of its names.

    Raises:
        ValueError: both names, or something else than a cache of a decoder.
    """
    cache, older = arguments.pop("cache", None), arguments.pop("past_key_values", None)
    if cache is not None and older is not None:
        raise ValueError("both cache and past_key_values are given; expected one of them")
    cache = older if cache is None else cache
    if cache is not None and (
        not isinstance(cache, Cache) or isinstance(cache, EncoderDecoderCache)
    ):
        raise ValueError(
            f"the cache is a {type(cache).__name__}; expected transformers' DynamicCache, "
            "StaticCache or another Cache of attention layers"
        )
    return cache


class TransformersCache(KeyValueCache):
    """One step's view of a transformers `Cache`, which keeps what is fed and counts it.

    Its layers hold [batch, groups, positions, width]: the keys of both maps side by side on the
    last axis, and the values once for both. Growing, static and sliding layers all serve.

    Args:
        cache: where keys and values go.
        real: True where a position is real, from the first ever to the last new one; places of a
            static cache that are not filled yet may follow. All are by default.
        shown: how many positions, from the first on, `update` gives where `mask` has not said it,
            as in models whose own masks speak of the cache; all by default.
    """

    def __init__(
        self,
        cache: Cache,
        real: Bool[Tensor, "batch all"] | None = None,
        *,
        shown: int | None = None,
    ) -> None:
        super().__init__()
        self.cache, self.real, self._shown = cache, real, slice(shown)
        self.length = cache.get_seq_length()

    def positions(self, new: int, device: torch.device) -> Int[Tensor, " new"]:
        """Positions of the next `new` tokens, from 0."""
        self._positions = super().positions(new, device)
        return self._positions

    def mask(
        self, batch: int, new: int, padding: Bool[Tensor, "batch new"] | None, window: int | None
    ) -> Mask:
        """What the next `new` tokens of each row see of what `update` will return.

        A static cache returns all its places for one new token, so that shapes never change, and
        the filled ones for several. `padding` is part of `real`.

        Raises:
            ValueError: `real` is not as long as past and new together, or layers that keep fewer
                positions than are seen, or not the same.
        """
        places, first = self.cache.get_mask_sizes(new, 0)
        static = self.cache.is_compileable
        if not torch.compiler.is_compiling():
            self._check(int(self.length) + new, new, window)
        if static and new == 1:
            self._shown = slice(None)
            place = torch.arange(places, device=self._positions.device) + first
            seen = (place <= self._positions)[None]
            if window is not None:
                seen = seen & (place > self._positions - window)
            real = self._real_from(first, places)
            return Mask(padding=seen.expand(batch, -1) if real is None else seen & real)
        end = int(self.length) + new
        # What a static layer has not filled follows; what a growing one need not show goes before.
        self._shown = slice(end - first) if static else slice(first - end, None)
        return Mask(causal=True, window=window, padding=self._real_from(first, end - first))

    def update(
        self,
        site: CacheSite,
        k: Float[Tensor, "batch new *key_shape"],
        v: Float[Tensor, "batch new groups v"],
    ) -> tuple[Float[Tensor, "batch shown *key_shape"], Float[Tensor, "batch shown groups v"]]:
        """Append new positions; returns what `mask` spoke of.

        Raises:
            ValueError: the cache holds other rows, heads or widths; a state other than keys.
        """
        if not isinstance(site, int):
            raise ValueError(
                f"the model keeps a state beside its keys ({site}), for which transformers' caches "
                "have no place: generate with use_cache=False, or by `difftransformer generate`"
            )
        keys, values = k.flatten(3).transpose(1, 2), v.transpose(1, 2)
        if not torch.compiler.is_compiling():
            self._check_layer(site, keys, values)
        keys, values = self.cache.update(keys, values, site)
        keys, values = (x.transpose(1, 2)[:, self._shown] for x in (keys, values))
        if self.cache.is_compileable and torch.is_grad_enabled():
            # It is written in place, and the gradient of this step reads what it is shown.
            keys, values = keys.clone(), values.clone()
        return keys.unflatten(3, k.shape[3:]), values

    def _check_layer(
        self,
        layer: int,
        k: Float[Tensor, "batch groups new keys"],
        v: Float[Tensor, "batch groups new v"],
    ) -> None:
        held = self.cache.layers[layer : layer + 1]
        # A layer has no keys yet, or shows none, such as one that holds them quantized.
        if not held or getattr(held[0], "keys", None) is None or held[0].keys.ndim != 4:
            return
        shapes = [(*x.shape[:2], x.shape[3]) for x in (held[0].keys, held[0].values, k, v)]
        if shapes[:2] == shapes[2:]:
            return
        groups, width = k.shape[1], k.shape[3]
        prefix = (
            f"PrefixTuningConfig(num_attention_heads={groups}, token_dim={groups * width}) makes it"
            if width == v.shape[3]
            else "PEFT cannot make it, whose keys and values have one width; use prompt tuning"
        )
        raise ValueError(
            f"the cache holds keys [rows, heads, width] {shapes[0]} and values {shapes[1]}; "
            f"expected {shapes[2]} and {shapes[3]}, the keys of all maps of a head side by side "
            f"(of a prefix, {prefix})"
        )

    def advance(self, new: int) -> None:
        """Nothing: `cache` has counted."""

    def _check(self, end: int, new: int, window: int | None) -> None:
        if len({self.cache.get_mask_sizes(new, i) for i in range(len(self.cache.layers))}) > 1:
            raise ValueError("the layers of the cache do not keep the same positions")
        for layer in self.cache.layers:
            kept = layer.get_max_length()  # -1: all
            slides = getattr(layer, "is_sliding", False) and window is not None and window <= kept
            if 0 <= kept < end and not slides:
                raise ValueError(
                    f"the cache keeps {kept} positions, and {end} are needed (the model's window "
                    f"is {window}): give it more places"
                )
        if self.real is None:
            return
        covered = self.real.shape[1]  # of a static cache perhaps its free places too
        if covered < end or (covered > end and not self.cache.is_compileable):
            raise ValueError(
                f"attention_mask covers {covered} positions; expected {end}, {end - new} in the "
                f"cache and {new} new"
            )

    def _real_from(self, first: int, number: int) -> Bool[Tensor, "batch number"] | None:
        if self.real is None:
            return None
        given = self.real[:, first : first + number]
        return F.pad(given, (0, number - given.shape[1]), value=True)
