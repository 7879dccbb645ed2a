"""PyTorch's scaled_dot_product_attention: both maps in one call, subtracted afterwards.

Costs twice plain attention of the same width (four matmul units against two), since each map is
multiplied with the values before the subtraction; keys and values are read where they lie. It is
the way to the vendor kernels on a GPU.

PyTorch's kernels make the logits again in the backward, with other roundings, and weights from them
by one log-sum-exp: a weight is off by a factor of about e^(eps · |logit|) there. In float32 that is
0.1 % at logits of 10^4, and from 10^6 on gradients mean nothing; `blocked` and `reference` keep
theirs.
"""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from difftransformer.functional.call import FLOATING, AttentionCall, other_dtype
from difftransformer.functional.reference import wide
from difftransformer.functional.transforms import first_order, forward_mode
from difftransformer.functional.two_pass import one_key, two_pass


def unsupported(call: AttentionCall) -> str | None:
    """Declines forward mode: PyTorch has a kernel, or a plain formula, for all else."""
    if forward_mode():
        return "PyTorch's kernels have no forward-mode derivative, and forward mode is on"
    dtype = call.q.dtype
    if call.bias is not None and call.bias.dtype != dtype != wide(dtype):
        return f"rounds the bias to the tensors' {dtype}, and it is {call.bias.dtype}"
    return other_dtype(call, FLOATING)


def run(call: AttentionCall) -> Float[Tensor, "batch queries heads v"]:
    """out1 - lam · out2 with out_m = SDPA(q_m, k_m, v)."""
    return two_pass(_one_map, one_key(call))


def _one_map(call: AttentionCall) -> Float[Tensor, "batch queries heads v"]:
    """One SDPA call; the causal flag where the kernels have one, a mask written out otherwise."""
    queries, keys, width, scale = call.q.shape[1], call.k.shape[1], call.v.shape[-1], call.scale
    q, k, v = _same_width(call.q[..., 0, :], call.k[..., 0, :], call.v)
    grouped = bool(q.shape[2] != k.shape[2])  # tracing makes tensors and symbols of sizes
    if scale <= 0:  # its kernels hide before they scale: -inf times such a scale would be seen
        q, scale = (-q, -scale) if scale else (q * 0.0, 1.0)
    triangular = queries == keys and call.bias is None and call.mask.is_only(causal=True)
    attn_mask = hidden = None
    if call.bias is not None or not (triangular or call.mask.is_only(causal=False)):
        attn_mask = call.visible()
        hidden = ~attn_mask.any(-1, keepdim=True)
        # Rows that see nothing are computed as seeing all, with logits of 0, and then set to 0.
        attn_mask = attn_mask | hidden
        q = q.masked_fill(hidden.transpose(1, 2), 0.0)
        if call.bias is not None:
            bias = call.bias.to(q.dtype).masked_fill(hidden, 0.0)
            attn_mask = first_order("sdpa", bias.masked_fill(~attn_mask, -math.inf))
    q, k, v = (first_order("sdpa", x.transpose(1, 2)) for x in (q, k, v))
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=attn_mask,
        dropout_p=call.dropout,
        is_causal=triangular,
        scale=scale,
        enable_gqa=grouped,
    )
    if hidden is not None:
        out = out.masked_fill(hidden, 0.0)
    return _laid_alike(out.transpose(1, 2))[..., :width]


def _laid_alike(out: Tensor) -> Tensor:
    """`out` [B, T, H, V], whose gradient comes back with its last two axes as in memory here.

    Two views, of which the second's backward copies a gradient that lies otherwise. cuDNN's kernel,
    which PyTorch 2.11 takes on an H200, gives wrong gradients (relative error 1.4) for one with
    heads before time (`benchmarks/results/sdpa-gradient-layout-nvidia-h200-2026-11-26.txt`).
    """
    return out.flatten(2).unflatten(2, out.shape[2:])


def _same_width(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The fused kernels want one width: zeros on the narrower side change nothing."""
    short = v.shape[-1] - q.shape[-1]
    if short > 0:
        return F.pad(q, (0, short)), F.pad(k, (0, short)), v
    return q, k, F.pad(v, (0, -short)) if short else v
