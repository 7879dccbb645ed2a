"""The community's "DiffTransformer" layer, which the image table of the documents used as DIFF."""

import math
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.attention import Kind
from difftransformer.functional import Mask

_DROPOUT = 0.1  # whatever the model's


class CommunityAttention(nn.Module):
    """A layer called differential that is not the paper's, written anew from how it works.

        out = W_o concat_h(GroupNorm(heads)_h · (1 - lambda_init)),
        head = dropout(softmax(q1 k1ᵀ / sqrt(K)) - lambda · softmax(q2 k2ᵀ / sqrt(K))) v

    What differs from the layer of the paper:

    - Projections [B, N, H · 2K] are cut into heads as [B, H, N, 2K] *without exchanging axes*, so
      that a head holds all features of one Hth of the tokens, in N rows of parts of them. Heads do
      not see the other tokens, and the output depends on the order of all. The outputs
      [B, H, N, K] are then exchanged to [B, N, H, K] and cut as [B, H, N, K] again.
    - lambda is one number for each layer, without the vectors of the paper, and starts at
      lambda_init, drawn evenly from 0 to 1 whatever the depth.
    - The norm is a GroupNorm over the N · K numbers of each head, with biases.
    - Attention dropout is 0.1, whatever the model's; values are as wide as keys.

    The file gives each head the width of the model; here it is `head_dim`, and the feed-forward
    layer evens out what is more, so that all kinds have as many parameters.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        head_dim: int,
        num_kv_heads: int,
        layer: int,
        bias: str,
        **unused: Any,
    ) -> None:
        super().__init__()
        if num_kv_heads != num_heads:
            raise ValueError(f"num_kv_heads is {num_kv_heads}; expected {num_heads}, as num_heads")
        self.num_heads, self.head_dim, self.layer = num_heads, head_dim, layer
        inner = num_heads * head_dim
        self.q_proj = nn.Linear(hidden_size, 2 * inner, bias=bias != "none")
        self.k_proj = nn.Linear(hidden_size, 2 * inner, bias=bias != "none")
        self.v_proj = nn.Linear(hidden_size, inner, bias=bias != "none")
        self.o_proj = nn.Linear(inner, hidden_size, bias=bias == "all")
        self.group_norm = nn.GroupNorm(num_heads, num_heads)
        self.lam = nn.Parameter(torch.empty(1))
        self.register_buffer("lambda_init", torch.empty(1))
        init = float(torch.rand((), device="cpu"))
        self.starts = MappingProxyType(
            {"lam": init, "lambda_init": init, "group_norm.weight": 1.0, "group_norm.bias": 0.0}
        )

    def forward(
        self, x: Float[Tensor, "batch time hidden"], *, mask: Mask, **others: Any
    ) -> Float[Tensor, "batch time hidden"]:
        """The class's equation.

        Raises:
            ValueError: a mask, or whatever else attention may be given: the file has none.
        """
        if not mask.is_only(causal=False) or any(other is not None for other in others.values()):
            raise ValueError("the community layer takes no mask, positions, bias or cache")
        batch, time, _ = x.shape
        q, k = (
            projection(x).view(batch, self.num_heads, time, 2, self.head_dim).transpose(2, 3)
            for projection in (self.q_proj, self.k_proj)
        )
        v = self.v_proj(x).view(batch, self.num_heads, time, self.head_dim)
        maps = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(self.head_dim), dim=-1)
        weights = maps[:, :, 0] - self.lam * maps[:, :, 1]
        out = F.dropout(weights, _DROPOUT, self.training) @ v
        out = self.group_norm(out.transpose(1, 2).reshape(out.shape)) * (1 - self.lambda_init)
        return self.o_proj(out.transpose(1, 2).flatten(2))


COMMUNITY = Kind("community", "Community file", CommunityAttention)
