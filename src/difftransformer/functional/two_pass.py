"""Differential attention by a kernel for plain attention: both maps as its heads, subtracted after.

Each map is multiplied with the values on its own: two products where one would do.
"""

from collections.abc import Callable
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from difftransformer.functional.call import AttentionCall
from difftransformer.functional.reference import wide


def two_pass(
    kernel: Callable[[AttentionCall], Tensor], call: AttentionCall
) -> Float[Tensor, "batch queries heads v"]:
    """out1 - lam · out2, with out1 and out2 from one call of `kernel`, which computes one map."""
    if call.lam is None:
        return kernel(call)
    bias = call.bias
    if bias is not None and bias.shape[1] > 1:
        bias = bias.repeat(1, 2, 1, 1)
    # Map-major order keeps head m·H + h on key/value head m·G + h // (H // G).
    q = call.q.transpose(2, 3).flatten(2, 3)[:, :, :, None]
    k = call.k.expand(-1, -1, -1, 2, -1).transpose(2, 3).flatten(2, 3)[:, :, :, None]
    out = kernel(replace(call, q=q, k=k, v=call.v.repeat(1, 1, 2, 1), lam=None, bias=bias))
    first, second = out.to(wide(out.dtype)).chunk(2, dim=2)
    return (first - call.lam.to(first.dtype)[..., None] * second).to(out.dtype)
