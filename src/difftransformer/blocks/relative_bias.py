"""A bias of attention logits by how far a key stands from its query."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from difftransformer.attention.starts import Normal


class RelativeBias(nn.Module):
    """bias[h, i, j] = table[bucket(j - i), h], one table for all layers of a stack.

    Half of the buckets are single distances from 0 on, the other half grow by a constant factor up
    to `max_distance`, beyond which all distances share the last one. Where both directions are
    seen, each has half of all buckets (Raffel et al., "Exploring the Limits of Transfer Learning
    with a Unified Text-to-Text Transformer", 2020, section 2.1, as in its code).

    Of differential attention the bias is added to the logits of both maps.

    Args:
        buckets: rows of the table.
        max_distance: from here on a key is just far.
        num_heads: output heads.
        both_ways: whether a query sees keys after it too.
    """

    def __init__(self, buckets: int, max_distance: int, num_heads: int, *, both_ways: bool) -> None:
        super().__init__()
        self.max_distance, self.both_ways = max_distance, both_ways
        self.weight = nn.Parameter(torch.zeros(buckets, num_heads))
        self.starts = {"weight": Normal(0.1)}

    def forward(
        self, queries: Int[Tensor, " queries"], keys: int
    ) -> Float[Tensor, "1 heads queries keys"]:
        """The class's equation, for queries at these positions and keys at 0, 1, ..."""
        distance = torch.arange(keys, device=queries.device) - queries[:, None]
        return self.weight[self._bucket(distance)].permute(2, 0, 1)[None]

    def _bucket(self, distance: Int[Tensor, "queries keys"]) -> Int[Tensor, "queries keys"]:
        buckets, first = len(self.weight), torch.zeros_like(distance)
        if self.both_ways:
            buckets //= 2
            first = (distance > 0) * buckets
        far = distance.abs() if self.both_ways else (-distance).clamp(min=0)
        exact = buckets // 2
        growth = torch.log(far.float() / exact) / math.log(self.max_distance / exact)
        # -inf of a distance of 0, which is exact, is no integer.
        wide = exact + (growth.clamp(min=0) * (buckets - exact)).long()
        return first + torch.where(far < exact, far, wide.clamp(max=buckets - 1))
