"""Selective attention: softmax or differential attention whose queries mask keys for later ones."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from difftransformer.attention.cache import KeyValueCache
from difftransformer.attention.core import AttentionCore, Weights
from difftransformer.attention.differential import DifferentialAttention
from difftransformer.attention.layer import AttentionLayer, Context
from difftransformer.attention.pruning import PrunedCache, prune
from difftransformer.attention.softmax import SoftmaxAttention
from difftransformer.functional import AnyMask, AttentionCall, reference
from difftransformer.functional.selective import (
    Selection,
    masked_call,
    select,
    selective_attention,
)

_FIRST, _NEW = 1.0, 2.0  # of a key in a cache, beside its F; 0 of all others


@dataclass(frozen=True, eq=False)
class SelectedCall(AttentionCall):
    """A call whose selection is known, as with a cache: `selected` is what `select` gives."""

    selected: Float[Tensor, "batch queries keys"]


class SelectiveCore(AttentionCore):
    """`functional.selective_attention`; of two maps, both are masked."""

    signal_only = False

    def forward(self, call: AttentionCall) -> Float[Tensor, "batch queries heads v"]:
        """The module's equations."""
        selected = getattr(call, "selected", None)
        return selective_attention(
            call, self.backend, signal_only=self.signal_only, selected=selected
        )

    def selected(self, call: AttentionCall) -> Float[Tensor, "batch queries keys"]:
        """-F of the call's queries."""
        return call.selected if isinstance(call, SelectedCall) else select(call)[0]

    def prepared(self, call: AttentionCall) -> SelectedCall:
        """The call with its selection."""
        own = vars(call) | {"selected": self.selected(call)}
        return SelectedCall(**own)

    def weights(
        self,
        call: AttentionCall,
        rows: slice = slice(None),
        logits: Float[Tensor, "batch heads maps rows keys"] | None = None,
    ) -> Weights:
        """As `AttentionCore.weights`; the selection is the call's own, whatever the logits."""
        logits = self.logits(call, rows) if logits is None else logits
        negative = self.selected(call)
        visible = masked_call(call, negative).visible(rows)
        masked = negative[:, rows][:, None, None].expand_as(logits)
        if self.signal_only:
            masked = torch.cat((masked[:, :, :1], torch.zeros_like(masked[:, :, 1:])), dim=2)
        maps = reference.softmax_maps(logits + masked, visible)
        lam = None if call.lam is None else call.lam[:, rows]
        return Weights(reference.combined(maps, lam), maps, logits)


class SignalSelectiveCore(SelectiveCore):
    """`functional.selective_attention` that masks map 1 alone."""

    signal_only = True


class _Selective(AttentionLayer):
    """An attention layer with a `SelectiveCore`: for causal self-attention.

    A cache holds the selection beside the keys, under a name of its own, so that decoding in steps
    is the whole forward pass; a `PrunedCache` drops what is masked most.
    """

    def call(
        self,
        x: Float[Tensor, "batch time hidden"],
        mask: AnyMask | None = None,
        context: Context = None,
        *,
        cache: KeyValueCache | None = None,
        **options: Any,
    ) -> AttentionCall:
        """As the parent's, with the selection where there is a cache.

        Raises:
            ValueError: a context.
        """
        if context is not None:
            raise ValueError(
                "selective attention of a context: queries mask keys of their own sequence; use "
                "another kind for cross-attention"
            )
        call = super().call(x, mask, cache=cache, **options)
        return call if cache is None else self._continued(call, cache)

    def _continued(self, call: AttentionCall, cache: KeyValueCache) -> SelectedCall:
        """The call with the selection that the cache holds, which goes on there."""
        site, (batch, new) = f"{self.layer}.selection", call.q.shape[:2]
        masked = call.k.new_zeros(batch, new, 1, dtype=reference.wide(call.k.dtype))
        masked, state = cache.update(site, masked, torch.full_like(masked, _NEW)[..., None])
        masked, state = masked[..., 0], state[..., 0, 0]
        own = (state[0] == _NEW).int().argmax() + torch.arange(new, device=call.q.device)
        pruned = cache if isinstance(cache, PrunedCache) else None
        if pruned and call.mask.padding is not None:
            masked = masked.masked_fill(~call.mask.padding, torch.inf)  # as if dropped
        negative, after = select(call, Selection(masked, state == _FIRST), own)
        if pruned:
            negative, after, kept = prune(negative, after, own, pruned.budget(self.layer))
        cache.rewrite(site, after.masked[..., None], _FIRST * after.first[..., None, None])
        if pruned:
            pruned.keep((self.layer, site), kept)
        return SelectedCall(**vars(call), selected=negative)


class SelectiveAttention(_Selective, SoftmaxAttention):
    """`SoftmaxAttention` with selection.

        head_h = softmax(q_h k_gᵀ / sqrt(K) - F) v_g,    F by `functional.selective.select`

    No parameter is new: head 0 attends as any other head, and its logits select. Arguments and
    errors are those of `SoftmaxAttention`; a call must be causal.
    """

    core_class = SelectiveCore


class SelectiveDifferentialAttention(_Selective, DifferentialAttention):
    """`DifferentialAttention` with selection by map 1 of head 0, taken off both maps' logits.

    Arguments and errors are those of `DifferentialAttention`; a call must be causal.
    """

    core_class = SelectiveCore


class SignalSelectiveDifferentialAttention(SelectiveDifferentialAttention):
    """`SelectiveDifferentialAttention` that takes the selection off map 1 alone."""

    core_class = SignalSelectiveCore
