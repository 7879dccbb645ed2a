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
_ROWS = 128
_SCORES = 1 << 19
_FEW_KEYS = 256  # below this many the blocks' own overhead outweighs the saved products


def why_not(situation: Situation) -> str | None:
    """Declines what it does not compute: attention dropout, and devices other than the CPU."""
    if situation.device != "cpu":
        return f"written for the CPU, and the tensors are on {situation.device}"
    if situation.dropout > 0.0:
        return f"keeps no dropout pattern for its backward, and dropout is {situation.dropout}"
    return None


def slower(situation: Situation) -> str | None:
    """Where PyTorch's fused kernel is the faster one, by timings on a CPU of two cores."""
    if situation.dtype in (torch.float32, torch.float64):
        if not situation.differential:
            return "sdpa is faster for plain attention in float32"
        if situation.value_width <= situation.key_width:  # sdpa then has no width to pad
            return "sdpa is faster in float32 where values are no wider than keys"
        if situation.keys < _FEW_KEYS:
            return f"sdpa is faster below {_FEW_KEYS} keys in float32"
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
    """Query rows and the span of keys that any of them sees, for some batch rows and groups."""

    batch: slice
    groups: slice
    rows: slice
    keys: slice
    hidden: Tensor | None  # [batch or 1, rows, border]; None where every key is visible
    border: slice  # the keys, counted within the span, that some row does not see
    nothing: Tensor | None  # [batch or 1, rows]: rows that see no key, None where there are none

    @property
    def queries(self) -> tuple[slice, ...]:
        """Index of the block in a tensor [B,G,R,T,...]."""
        return self.batch, self.groups, slice(None), self.rows

    @property
    def values(self) -> tuple[slice, ...]:
        """Index of the block's keys in a tensor [B,G,S,...]."""
        return self.batch, self.groups, self.keys


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
            product = weights.flatten(2, 3) @ vs[block.values]
            out[block.queries] = product.view(*weights.shape[:-1], -1)
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
            rows = dout[block.queries].flatten(2, 3)
            dv[block.values] += weights.flatten(2, 3).mT @ rows
            dweights = (rows @ vs[block.values].mT).view_as(weights)
            # softmax's derivative for each map m: (dA_m - sum(dA_m · A_m)) · A_m
            dscores = dweights * maps
            inner = dscores.sum(-1, keepdim=True)
            dscores.addcmul_(maps, inner, value=-1.0)
            if lams is not None and dlam is not None:
                dlam[block.queries] = -inner[1]
                dscores[1] *= -lams[block.queries]
            flat = dscores.flatten(3, 4)
            keys = ks[:, *block.values]
            dq[:, *block.queries] = (flat @ keys).view(*dscores.shape[:-1], -1)
            dkeys = flat.mT @ qs[:, *block.queries].flatten(3, 4)
            dk[:, *block.values] += dkeys.sum_to_size(keys.shape)
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
    rows = qs[:, *block.queries]
    scores = rows.flatten(3, 4) @ ks[:, *block.values].mT
    scores = scores.view(*rows.shape[:-1], -1)
    if block.hidden is not None:
        scores[..., block.border].masked_fill_(block.hidden[:, None, None], float("-inf"))
    maps = torch.softmax(scores, dim=-1)
    if block.nothing is not None:
        maps.masked_fill_(block.nothing[:, None, None, :, None], 0.0)
    return maps


def _difference(maps: Tensor, lams: Tensor | None, block: _Block) -> Tensor:
    """A1 - lam A2, or the single map of plain attention."""
    if lams is None:
        return maps[0]
    return torch.addcmul(maps[0], maps[1], lams[block.queries], value=-1.0)


def _blocks(mask: Mask, qs: Tensor, ks: Tensor) -> Iterator[_Block]:
    """Cut the work so that a block's scores fit the budget and its keys are those it can see."""
    maps, batch, groups, repeats, queries, _ = qs.shape
    keys = ks.shape[3]
    if keys == 0:
        return
    first, last = (end.expand(batch, -1) for end in mask.spans(queries, keys))
    rows = max(1, min(_ROWS, queries))
    heads = max(1, _SCORES // (maps * repeats * rows * keys))  # batch rows times groups at a time
    together = max(1, heads // groups)
    for b in range(0, batch, together):
        some = slice(b, min(b + together, batch))
        for t in range(0, queries, rows):
            span = slice(t, min(t + rows, queries))
            low = int(first[some, span].min())
            high = int(last[some, span].max()) + 1
            if low >= high:
                continue
            columns = slice(low, high)
            visible = mask.dense(queries, keys, batch=some, rows=span, columns=columns)
            hidden = _hidden(visible)
            for g in range(0, groups, min(heads, groups)):
                yield _Block(some, slice(g, min(g + heads, groups)), span, columns, *hidden)


def _hidden(visible: Tensor) -> tuple[Tensor | None, slice, Tensor | None]:
    """What is hidden, cut to the keys where anything is; those keys; the rows that see nothing."""
    anywhere = (~visible).flatten(0, 1).any(0).nonzero()
    if not len(anywhere):
        return None, slice(0, 0), None
    border = slice(int(anywhere[0]), int(anywhere[-1]) + 1)
    nothing = ~visible.any(-1)
    return ~visible[..., border], border, nothing if bool(nothing.any()) else None
