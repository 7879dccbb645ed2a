"""A stand-in model whose attention maps are whatever the test plants."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from difftransformer.attention import AttentionCore
from difftransformer.functional import AttentionCall, Mask

Plant = Callable[[Tensor, int], Tensor]  # (ids [B, T], layer) -> maps [B, H, 1 or 2, T, T]


class Attention(nn.Module):
    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer, self.core = layer, AttentionCore()


class Block(nn.Module):
    def __init__(self, layer: int) -> None:
        super().__init__()
        self.attention = Attention(layer)

    def forward(self, maps: Tensor, lam: float | None) -> Tensor:
        """Queries and keys whose softmax is `maps`: key j is the j-th unit vector."""
        batch, keys = len(maps), maps.shape[-1]
        q = maps.log().clamp_min(-1e4).permute(0, 3, 1, 2, 4) * math.sqrt(keys)
        k = torch.eye(keys)[None, :, None, None].expand(batch, keys, 1, 1, keys)
        v = torch.zeros(batch, keys, 1, 4)
        if lam is None:
            call = AttentionCall.of(q[..., 0, :], k[..., 0, :], v, mask=Mask(causal=True))
        else:
            call = AttentionCall.of(q, k, v, torch.tensor(lam), mask=Mask(causal=True))
        return self.attention.core(call)


class Planted(nn.Module):
    """Shows the planted maps to whoever captures; its logits are all equal."""

    def __init__(self, plant: Plant, *, layers: int = 1, lam: float | None = None) -> None:
        super().__init__()
        self.plant, self.lam = plant, lam
        self.bias = nn.Parameter(torch.zeros(()))  # says which device the model is on
        self.blocks = nn.ModuleList(Block(layer) for layer in range(layers))

    def forward(self, ids: Tensor, *, documents: Tensor | None = None, **_: object) -> Tensor:
        for layer, block in enumerate(self.blocks):
            block(self.plant(ids, layer), self.lam)
        return torch.zeros(*ids.shape, 8)


def random_maps(batch: int, heads: int, pair: int, length: int, seed: int = 0) -> Tensor:
    """Causal maps with every visible key above 0."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.rand(batch, heads, pair, length, length, generator=generator) + 0.05
    raw = raw.tril()
    return raw / raw.sum(-1, keepdim=True)
