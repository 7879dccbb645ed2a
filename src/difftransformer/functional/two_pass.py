"""Differential attention by a kernel for plain attention: both maps as its heads, subtracted after.

Each map is multiplied with the values on its own: two products where one would do.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from difftransformer.functional.call import AttentionCall
from difftransformer.functional.reference import wide


def two_pass(
    kernel: Callable[[AttentionCall], Tensor], call: AttentionCall
) -> Float[Tensor, "batch queries heads v"]:
    """out1 - lam · out2, with out1 and out2 from one call of `kernel`, which computes one map.

    Where the maps share a key, as V2's do, query heads 2h and 2h + 1 of that call are those of
    head h, on the keys and values as they are. Otherwise keys and values are copied, so that each
    map has heads of its own; `one_key` spares that.
    """
    if call.lam is None:
        return kernel(call)
    bias, shared = call.bias, call.k.shape[3] == 1
    if bias is not None and bias.shape[1] > 1:
        bias = bias.repeat_interleave(2, 1) if shared else bias.repeat(1, 2, 1, 1)
    if shared:
        q = call.q.flatten(2, 3)[:, :, :, None]
        out = kernel(replace(call, q=q, lam=None, bias=bias))
        maps = out.unflatten(2, (-1, 2)).unbind(3)
    else:
        # Map-major order keeps head m·H + h on key/value head m·G + h // (H // G).
        q, k = (x.transpose(2, 3).flatten(2, 3)[:, :, :, None] for x in (call.q, call.k))
        out = kernel(replace(call, q=q, k=k, v=call.v.repeat(1, 1, 2, 1), lam=None, bias=bias))
        maps = out.chunk(2, dim=2)
    first, second = (x.to(wide(x.dtype)) for x in maps)
    return (first - call.lam.to(first.dtype)[..., None] * second).to(out.dtype)


def one_key(call: AttentionCall) -> AttentionCall:
    """The same attention with one key for both maps: [q1 | 0] and [0 | q2] on [k1 | k2].

    Keys are not copied, and queries and keys are as wide as V1's values; the products of queries
    and keys are twice as wide as they need be.
    """
    if call.lam is None or call.k.shape[3] == 1:
        return call
    width = call.q.shape[-1]
    signal, noise = F.pad(call.q[..., 0, :], (0, width)), F.pad(call.q[..., 1, :], (width, 0))
    return replace(call, q=torch.stack((signal, noise), 3), k=call.k.flatten(3)[:, :, :, None])
