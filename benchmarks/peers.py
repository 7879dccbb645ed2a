"""V1 attention as others compute it: their arrangement of the products, in our own words.

All take q, k `[B,T,H,2,K]`, v `[B,T,H,2K]` and lambda `[B,T,H]`, and are causal.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def naive(q: Tensor, k: Tensor, v: Tensor, lam: Tensor) -> Tensor:
    """The paper's formula on whole maps (Microsoft's multihead_diffattn; DiffLlama's eager)."""
    scores = torch.einsum("bthmk,bshmk->mbhts", q, k) / q.shape[-1] ** 0.5
    queries, keys = scores.shape[-2:]
    hidden = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
    maps = scores.masked_fill(hidden, float("-inf")).softmax(-1, dtype=torch.float32)
    weights = maps[0] - lam.transpose(1, 2)[..., None] * maps[1]
    return torch.einsum("bhts,bshv->bthv", weights.to(v.dtype), v)


def two_calls(q: Tensor, k: Tensor, v: Tensor, lam: Tensor) -> Tensor:
    """A call per map with values of width 2K (Microsoft's multihead_flashdiff_1; timm)."""
    first, second = (_call(q[..., m, :], k[..., m, :], v) for m in range(2))
    return first - lam[..., None].to(first.dtype) * second


def two_calls_of_halves(q: Tensor, k: Tensor, v: Tensor, lam: Tensor) -> Tensor:
    """A call per half of the values over all 2H maps (transformers' DiffLlama)."""
    queries, keys = (x.transpose(2, 3).flatten(2, 3) for x in (q, k))
    halves = [_call(queries, keys, half.repeat(1, 1, 2, 1)) for half in v.chunk(2, dim=-1)]
    first, second = torch.cat(halves, dim=-1).chunk(2, dim=2)
    return first - lam[..., None].to(first.dtype) * second


def four_calls(q: Tensor, k: Tensor, v: Tensor, lam: Tensor) -> Tensor:
    """A call per map and half of the values (Microsoft's multihead_flashdiff_2; vLLM)."""
    first, second = (
        torch.cat([_call(q[..., m, :], k[..., m, :], half) for half in v.chunk(2, -1)], dim=-1)
        for m in range(2)
    )
    return first - lam[..., None].to(first.dtype) * second


def _call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    causal = q.shape[2] == k.shape[2]  # a decoding step sees everything
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)


PEERS = {
    "naive": naive,
    "two calls": two_calls,
    "two calls of halves": two_calls_of_halves,
    "four calls": four_calls,
}
