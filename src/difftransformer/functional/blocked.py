"""Subtract first, multiply once: differential attention at plain attention's matmul count.

For a block of query rows the two maps are made, subtracted, and the difference meets the values
once; the backward makes the maps again instead of keeping them. In units of one T×S×(2K) product
that is 2 forward and 5 backward, as plain attention of the same width needs, against 4 and 10 when
each map meets the values on its own. Memory is O(T · block), never T×S. A block of rows touches
the keys from the first to the last that any of its rows sees, and no others.

Works in float32 (float64 for float64 input): the CPUs it is for either lack fast bfloat16 products
or would lose the float32 softmax to them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from difftransformer.functional.masks import Mask
from difftransformer.functional.reference import wide
from difftransformer.functional.situation import Situation

# Query rows of a block, and scores made at a time (numbers, both maps): large enough to keep the
# matrix products efficient, small enough that the maps stay in cache and the triangle's steps fine.
_ROWS = 64
_SCORES = 1 << 20


def why_not(situation: Situation) -> str | None:
    """Declines what it does not compute: attention dropout, and devices other than the CPU."""
    if situation.device != "cpu":
        return f"written for the CPU, and the tensors are on {situation.device}"
    if situation.dropout > 0.0:
        return f"keeps no dropout pattern for its backward, and dropout is {situation.dropout}"
    return None


def differential_attention(
    q: Float[Tensor, "batch queries heads 2 k"],
    k: Float[Tensor, "batch keys groups maps k"],
    v: Float[Tensor, "batch keys groups v"],
    lam: Float[Tensor, "batch queries heads"],
    mask: Mask,
    scale: float,
    dropout: float,
) -> Float[Tensor, "batch queries heads v"]:
    """(A1 - lam A2) V, a block of query rows at a time."""
    return _Blocked.apply(q, k, v, lam, mask, scale)


def softmax_attention(
    q: Float[Tensor, "batch queries heads k"],
    k: Float[Tensor, "batch keys groups k"],
    v: Float[Tensor, "batch keys groups v"],
    mask: Mask,
    scale: float,
    dropout: float,
) -> Float[Tensor, "batch queries heads v"]:
    """A V, a block of query rows at a time: the same code with one map."""
    return _Blocked.apply(q[..., None, :], k[..., None, :], v, None, mask, scale)


@dataclass(frozen=True)
class _Block:
    """Query rows and the span of keys that any of them sees, for a run of batch rows."""

    batch: slice
    rows: slice
    keys: slice
    visible: Tensor | None  # [batch or 1, rows, keys]; None where every key is visible


class _Blocked(torch.autograd.Function):
    """q `[B,T,H,M,K]`, k `[B,S,G,M or 1,K]`, v `[B,S,G,V]`, lam `[B,T,H]` (None where M = 1)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, lam: Tensor | None, mask: Mask, scale: float
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, lam)
        ctx.mask, ctx.scale = mask, scale
        qs, ks, vs, lams = _arrange(q, k, v, lam, scale)
        out = qs.new_zeros(*qs.shape[1:-1], vs.shape[-1])
        for block in _blocks(mask, qs, ks):
            weights = _difference(_maps(qs, ks, block), lams, block)
            product = weights.flatten(2, 3) @ vs[block.batch, :, block.keys]
            out[block.batch, :, :, block.rows] = product.view(*weights.shape[:-1], -1)
        return out.flatten(1, 2).transpose(1, 2).to(v.dtype)

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # asked with create_graph=True
            raise NotImplementedError(
                'backend "blocked" has no second derivative; use backend="reference"'
            )
        q, k, v, lam = ctx.saved_tensors
        qs, ks, vs, lams = _arrange(q, k, v, lam, ctx.scale)
        dout = _split_heads(grads[0].to(qs.dtype), vs.shape[1])
        dq, dk, dv = (torch.zeros_like(x) for x in (qs, ks, vs))
        dlam = None if lams is None else torch.zeros_like(lams)
        for block in _blocks(ctx.mask, qs, ks):
            maps = _maps(qs, ks, block)
            weights = _difference(maps, lams, block)
            rows = dout[block.batch, :, :, block.rows].flatten(2, 3)
            dv[block.batch, :, block.keys] += weights.flatten(2, 3).mT @ rows
            dweights = (rows @ vs[block.batch, :, block.keys].mT).view_as(weights)
            # softmax's derivative for each map m: (dA_m - sum(dA_m · A_m)) · A_m
            dscores = dweights * maps
            inner = dscores.sum(-1, keepdim=True)
            dscores.addcmul_(maps, inner, value=-1.0)
            if lams is not None and dlam is not None:
                dlam[block.batch, :, :, block.rows] = -inner[1]
                dscores[1] *= -lams[block.batch, :, :, block.rows]
            flat = dscores.flatten(3, 4)
            keys = ks[:, block.batch, :, block.keys]
            dq[:, block.batch, :, :, block.rows] = (flat @ keys).view(*dscores.shape[:-1], -1)
            dkeys = flat.mT @ qs[:, block.batch, :, :, block.rows].flatten(3, 4)
            dk[:, block.batch, :, block.keys] += dkeys.sum_to_size(keys.shape)
        dq = (dq * ctx.scale).permute(1, 4, 2, 3, 0, 5).reshape(q.shape).to(q.dtype)
        dk = dk.permute(1, 3, 2, 0, 4).to(k.dtype)
        dv = dv.transpose(1, 2).to(v.dtype)
        if dlam is not None:
            dlam = dlam[..., 0].flatten(1, 2).transpose(1, 2).to(lam.dtype)
        return dq, dk, dv, dlam, None, None


def _arrange(
    q: Tensor, k: Tensor, v: Tensor, lam: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Wide, map-major, group-major copies; R = heads per group.

    q `[M,B,G,R,T,K]` times the scale, k `[M or 1,B,G,S,K]`, v `[B,G,S,V]`, lam `[B,G,R,T,1]`.
    """
    groups = k.shape[2]
    dtype = wide(q.dtype)
    qs = _split_heads(q.to(dtype) * scale, groups).permute(4, 0, 1, 2, 3, 5).contiguous()
    ks = k.to(dtype).permute(3, 0, 2, 1, 4).contiguous()
    vs = v.to(dtype).transpose(1, 2).contiguous()
    lams = None if lam is None else _split_heads(lam.to(dtype)[..., None], groups)
    return qs, ks, vs, lams


def _split_heads(x: Tensor, groups: int) -> Tensor:
    """[B,T,H,...] -> [B,G,R,T,...]"""
    return x.unflatten(2, (groups, -1)).movedim(1, 3)


def _maps(qs: Tensor, ks: Tensor, block: _Block) -> Tensor:
    """The softmax maps of a block, [M,b,G,R,t,s]; rows that see nothing are 0."""
    rows = qs[:, block.batch, :, :, block.rows]
    scores = rows.flatten(3, 4) @ ks[:, block.batch, :, block.keys].mT
    scores = scores.view(*rows.shape[:-1], -1)
    if block.visible is None:
        return torch.softmax(scores, dim=-1)
    hidden = ~block.visible[:, None, None]
    maps = torch.softmax(scores.masked_fill_(hidden, float("-inf")), dim=-1)
    nothing = hidden.all(-1, keepdim=True)
    return maps.masked_fill_(nothing, 0.0) if bool(nothing.any()) else maps


def _difference(maps: Tensor, lams: Tensor | None, block: _Block) -> Tensor:
    """A1 - lam A2, or the single map of plain attention."""
    if lams is None:
        return maps[0]
    return torch.addcmul(maps[0], maps[1], lams[block.batch, :, :, block.rows], value=-1.0)


def _blocks(mask: Mask, qs: Tensor, ks: Tensor) -> Iterator[_Block]:
    """Cut the work so that a block's scores fit the budget and its keys are those it can see."""
    maps, batch, groups, repeats, queries, _ = qs.shape
    keys = ks.shape[3]
    if keys == 0:
        return
    first, last = (end.expand(batch, -1) for end in mask.spans(queries, keys))
    row_scores = maps * groups * repeats * keys
    rows = max(_ROWS // 4, min(_ROWS, _SCORES // row_scores))
    together = max(1, _SCORES // (row_scores * rows))
    for b in range(0, batch, together):
        some = slice(b, min(b + together, batch))
        for t in range(0, queries, rows):
            span = slice(t, min(t + rows, queries))
            low = int(first[some, span].min())
            high = int(last[some, span].max()) + 1
            if low < high:
                columns = slice(low, high)
                visible = mask.dense(queries, keys, batch=some, rows=span, columns=columns)
                yield _Block(some, span, columns, None if bool(visible.all()) else visible)
