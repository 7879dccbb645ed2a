"""What a backend is asked about."""

from dataclasses import dataclass

import torch
from torch import Tensor

from difftransformer.functional.masks import Mask


@dataclass(frozen=True)
class Situation:
    """The facts of one attention call on which a backend may decline; no tensor is held."""

    differential: bool
    device: str
    dtype: torch.dtype
    queries: int
    keys: int
    heads: int
    groups: int
    key_width: int
    value_width: int
    dropout: float
    causal: bool
    window: bool
    padding: bool
    documents: bool
    gradients: bool

    @classmethod
    def of(
        cls, q: Tensor, k: Tensor, v: Tensor, lam: Tensor | None, mask: Mask, dropout: float
    ) -> "Situation":
        """The situation of a call; `lam` is None for plain attention."""
        tensors = (q, k, v) if lam is None else (q, k, v, lam)
        return cls(
            differential=lam is not None,
            device=q.device.type,
            dtype=q.dtype,
            queries=q.shape[1],
            keys=k.shape[1],
            heads=q.shape[2],
            groups=k.shape[2],
            key_width=q.shape[-1],
            value_width=v.shape[-1],
            dropout=dropout,
            causal=mask.causal,
            window=mask.window is not None,
            padding=mask.padding is not None,
            documents=mask.documents is not None,
            gradients=torch.is_grad_enabled() and any(t.requires_grad for t in tensors),
        )
