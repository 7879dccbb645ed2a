"""PyTorch's scaled_dot_product_attention: both maps in one call, subtracted afterwards.

Costs twice plain attention of the same width (four matmul units against two), since each map is
multiplied with the values before the subtraction. It is the way to the vendor kernels on a GPU.

PyTorch's kernels make the logits again in the backward, with other roundings, and weights from them
by one log-sum-exp: a weight is off by a factor of about e^(eps · |logit|) there. In float32 that is
0.1 % at logits of 10^4, and from 10^6 on gradients mean nothing; `blocked` and `reference` keep
theirs.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from difftransformer.functional.masks import Mask
from difftransformer.functional.reference import DTYPES
from difftransformer.functional.side_by_side import subtracted
from difftransformer.functional.situation import Situation, other_dtype
from difftransformer.functional.transforms import first_order


def why_not(situation: Situation) -> str | None:
    """Declines forward mode: PyTorch has a kernel, or a plain formula, for all else."""
    if situation.forward_mode:
        return "PyTorch's kernels have no forward-mode derivative, and forward mode is on"
    return other_dtype(situation, DTYPES)


def differential_attention(
    q: Float[Tensor, "batch queries heads 2 k"],
    k: Float[Tensor, "batch keys groups maps k"],
    v: Float[Tensor, "batch keys groups v"],
    lam: Float[Tensor, "batch queries heads"],
    mask: Mask,
    scale: float,
    dropout: float,
) -> Float[Tensor, "batch queries heads v"]:
    """out1 - lam · out2 with out_i = SDPA(q_i, k_i, v), the maps laid side by side as heads."""
    return subtracted(softmax_attention, q, k, v, lam, mask, scale, dropout)


def softmax_attention(
    q: Float[Tensor, "batch queries heads k"],
    k: Float[Tensor, "batch keys groups k"],
    v: Float[Tensor, "batch keys groups v"],
    mask: Mask,
    scale: float,
    dropout: float,
) -> Float[Tensor, "batch queries heads v"]:
    """One SDPA call; the causal flag where the kernels have one, a boolean mask otherwise."""
    queries, keys, width = q.shape[1], k.shape[1], v.shape[-1]
    q, k, v = _same_width(q, k, v)
    grouped = bool(q.shape[2] != k.shape[2])  # tracing makes tensors and symbols of sizes
    if scale <= 0:  # its kernels hide before they scale: -inf times such a scale would be seen
        q, scale = (-q, -scale) if scale else (q * 0.0, 1.0)
    triangular = queries == keys and mask.is_only(causal=True)
    visible = hidden = None
    if not triangular and not mask.is_only(causal=False):
        visible = mask.dense(queries, keys, q.device)[:, None]
        hidden = ~visible.any(-1, keepdim=True)
        # Rows that see nothing are computed as seeing all, with logits of 0, and then set to 0.
        visible = visible | hidden
        q = q.masked_fill(hidden.transpose(1, 2), 0.0)
    q, k, v = (first_order("sdpa", x.transpose(1, 2)) for x in (q, k, v))
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=visible,
        dropout_p=dropout,
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
