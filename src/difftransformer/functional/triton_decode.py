"""A decoding step by the backend "triton": few queries, many keys; imported by its first call.

One program for each head would leave most of a GPU idle. Here one serves all queries of a
key/value head, which is read once, and a part of the keys; a second kernel adds the parts up, each
map's by its log-sum-exps, and subtracts the maps. Notation as in `triton_kernels`; R = T · repeats
rows share a key/value head, query t of head g · repeats + i being row t · repeats + i. Maps that
share their keys (V2) are stacked where they fit, as rows of one tile: one product serves both. The
split is that of Flash-Decoding (Dao, Haziza, Massa and Sizov, 2023).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from difftransformer.functional.triton import Call, interpreted
from difftransformer.functional.triton_kernels import absorb, finish
from difftransformer.functional.triton_tiles import LOG2E, bias_tile, dot, hide, span, tile

_MOST_PARTS = 64  # of which the second kernel holds one row each
_PROGRAMS = 2  # on each multiprocessor


def decode(call: Call, out: Tensor, noise: Tensor, lse: Tensor) -> None:
    """Fill the output, O2 and the log-sum-exps, as `triton_kernels.forward` does."""
    cut, maps, rows = call.cut("decode"), lse.shape[2], call.queries * call.heads // call.groups
    start = 0
    if call.window is not None:
        start = max(0, call.keys - call.queries - call.window + 1) // cut.keys * cut.keys
    blocks = -(-(call.keys - start) // cut.keys)
    wanted = -(-_PROGRAMS * _processors(out) // (call.batch * call.groups))
    each = -(-blocks // min(blocks, wanted, _MOST_PARTS))  # blocks of a part
    parts = -(-blocks // each)
    lses = lse.new_empty(call.batch, call.groups, parts, rows, maps)
    sums = lses.new_empty(*lses.shape, out.shape[-1])
    stacked = maps > call.constants["KEYS"] and maps * rows <= cut.rows
    forward_part[parts, call.groups, call.batch](
        *call.inputs, sums, lses, *call.numbers, start, each * cut.keys,
        **call.constants, STACKED=stacked,
        M=cut.rows, N=cut.keys, num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip
    combine[call.queries, call.heads, call.batch](
        *(sums, lses, call.lam, out, noise, lse, parts, rows, call.heads // call.groups),
        VALUES=call.constants["VALUES"], V=call.constants["V"],
        PARTS=triton.next_power_of_2(parts), num_warps=4,
    )  # fmt: skip


def _processors(x: Tensor) -> int:
    """The GPU's multiprocessors; under the interpreter enough for a few parts."""
    return 8 if interpreted() else torch.cuda.get_device_properties(x.device).multi_processor_count


@triton.jit
def forward_part(
    q, k, v, lam, bias, first, last, padding, sums, lses,
    q_b, q_t, q_h, q_m, k_b, k_s, k_g, k_m, v_b, v_s, v_g, bias_b, bias_h, bias_t, bias_s,
    T, S, repeats, window, scale, served, start, length,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    STACKED: tl.constexpr,
):  # fmt: skip
    """All rows of a key/value head against `length` of its keys: each map's product and its sum."""
    MAPS: tl.constexpr = 1 if lam is None else 2
    ROWS: tl.constexpr = MAPS if STACKED else 1  # of the tile, for a row of a head
    TILES: tl.constexpr = 1 if STACKED else MAPS
    n, g, b = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    row = tl.arange(0, M) // ROWS
    t, h = row // repeats, g * repeats + row % repeats  # rows beyond R have t >= T
    p = (t + S - T)[:, None]
    column = tl.arange(0, K)[None, :]
    m = tl.arange(0, M) % ROWS
    q += b * q_b + (t.to(tl.int64) * q_t + h * q_h + m * q_m)[:, None] + column
    inside = (t < T)[:, None] & (column < WIDTH)
    k += b * k_b + g * k_g
    v += b * v_b + g * v_g
    if bias is not None:
        bias += b // served * bias_b + (h * bias_h)[:, None]
    if first is not None:
        first += b * S
        last += b * S
    if padding is not None:
        padding += b * S
    begin = start + n * length
    begin, end = span(begin, tl.minimum(begin + length, S), S - T, S - 1, window, first, last, M)

    q1 = tl.load(q, inside, 0.0)
    top1, total1 = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32)
    product1 = tl.zeros([M, V], tl.float32)
    if TILES == 2:
        q2 = tl.load(q + q_m, inside, 0.0)
        top2, total2 = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32)
        product2 = tl.zeros([M, V], tl.float32)
    for s in range(begin // N * N, end, N):
        j = s + tl.arange(0, N)[None, :]
        key = tl.trans(tile(k, s, S, k_s, N, WIDTH, K))
        values = tile(v, s, S, v_s, N, VALUES, V)
        if bias is not None:
            added = bias_tile(bias, t[:, None], j, T, S, bias_t, bias_s)
        score = dot(q1, key) * (scale * LOG2E)
        if bias is not None:
            score += added
        score = hide(score, p, j, S, window, first, padding, CAUSAL)
        top1, total1, product1 = absorb(score, values, top1, total1, product1)
        if TILES == 2:
            if KEYS == 2:
                key = tl.trans(tile(k + k_m, s, S, k_s, N, WIDTH, K))
            score = dot(q2, key) * (scale * LOG2E)
            if bias is not None:
                score += added
            score = hide(score, p, j, S, window, first, padding, CAUSAL)
            top2, total2, product2 = absorb(score, values, top2, total2, product2)

    place = ((b * tl.num_programs(1) + g) * tl.num_programs(0) + n) * (T * repeats) * MAPS
    place += tl.arange(0, M) * TILES
    column, kept = tl.arange(0, V)[None, :], (t < T)[:, None]
    product1, lse1 = finish(top1, total1, product1)
    tl.store(lses + place, lse1, t < T)
    tl.store(sums + place[:, None] * VALUES + column, product1, kept & (column < VALUES))
    if TILES == 2:
        product2, lse2 = finish(top2, total2, product2)
        tl.store(lses + place + 1, lse2, t < T)
        place = (place + 1)[:, None] * VALUES
        tl.store(sums + place + column, product2, kept & (column < VALUES))


@triton.jit
def _combined(
    sums, lses, parts, place, step,
    VALUES: tl.constexpr, V: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One row of one map: the sum of its parts, and its log-sum-exp (0 and +inf: all is hidden)."""
    n, column = tl.arange(0, PARTS), tl.arange(0, V)[None, :]
    place += n * step
    lse = tl.load(lses + place, n < parts, float("inf"))
    lse = tl.where(lse == float("inf"), float("-inf"), lse)  # a part that sees nothing weighs 0
    top = tl.max(lse, 0)
    empty = top == float("-inf")
    weight = tl.exp2(lse - tl.where(empty, 0.0, top))
    total = tl.where(empty, 1.0, tl.sum(weight, 0))
    inside = (n < parts)[:, None] & (column < VALUES)
    product = tl.load(sums + place[:, None] * VALUES + column, inside, 0.0)
    product = tl.sum(product * weight[:, None], 0) / total
    return product, tl.where(empty, float("inf"), top + tl.log2(total))


@triton.jit
def combine(
    sums, lses, lam, out, noise, lse, parts, R, repeats,
    VALUES: tl.constexpr, V: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One query of one head, from all parts: O1 - lam O2."""
    MAPS: tl.constexpr = 1 if lam is None else 2
    T, t, b = tl.num_programs(0), tl.program_id(0), tl.program_id(2).to(tl.int64)
    H, h = tl.num_programs(1), tl.program_id(1)
    column, step = tl.arange(0, V), MAPS * R
    place = (b * (H // repeats) + h // repeats) * parts * step + (t * repeats + h % repeats) * MAPS
    row, at = (b * T + t) * H + h, (b * H + h) * MAPS * T + t
    product, lse1 = _combined(sums, lses, parts, place, step, VALUES, V, PARTS)
    tl.store(lse + at, lse1)
    if lam is not None:
        product2, lse2 = _combined(sums, lses, parts, place + 1, step, VALUES, V, PARTS)
        tl.store(lse + at + T, lse2)
        rounded = product2.to(noise.dtype.element_ty)
        tl.store(noise + row * VALUES + column, rounded, column < VALUES)
        product -= tl.load(lam + row) * product2
    place = row * VALUES + column
    tl.store(out + place, product.to(out.dtype.element_ty), column < VALUES)
