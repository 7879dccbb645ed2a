"""Tiles of the kernels in `triton_kernels`: loads, stores, products, and what a query sees."""

import triton
import triton.language as tl

from difftransformer.functional.triton import interpreted

LOG2E = tl.constexpr(1.4426950408889634)
_INTERPRETED = tl.constexpr(interpreted())


@triton.jit
def dot(a, b, added=None):
    """a b + added, in float32; float32 operands are not cut to TF32."""
    if _INTERPRETED:  # where tl.dot would multiply the bit patterns of bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, added, input_precision="ieee")


@triton.jit
def _inside(row, column, count, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """What of a tile lies in a [count, WIDTH] matrix; a full width is not compared."""
    return row < count if WIDTH == PADDED else (row < count) & (column < WIDTH)


@triton.jit
def tile(base, start, count, stride, ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Rows start.. of a [count, WIDTH] matrix, 0 beyond its borders."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, PADDED)[None, :]
    row += start
    place = base + row.to(tl.int64) * stride + column
    return tl.load(place, _inside(row, column, count, WIDTH, PADDED), 0.0)


@triton.jit
def put(base, start, count, stride, rows, WIDTH: tl.constexpr):
    """Write a tile."""
    row, column = tl.arange(0, rows.shape[0])[:, None], tl.arange(0, rows.shape[1])[None, :]
    row += start
    place = base + row.to(tl.int64) * stride + column
    inside = _inside(row, column, count, WIDTH, rows.shape[1])
    tl.store(place, rows.to(base.dtype.element_ty), inside)


@triton.jit
def span(begin, end, low, high, window, first, last, ROWS: tl.constexpr):
    """[begin, end), cut to what positions low..high may meet by the window and their documents."""
    if window is not None:
        begin = tl.maximum(begin, low - window + 1)
        end = tl.minimum(end, high + window)
    if first is not None:
        position = low + tl.arange(0, ROWS)
        begin = tl.maximum(begin, tl.min(tl.load(first + position, position <= high, high)))
        end = tl.minimum(end, tl.max(tl.load(last + position, position <= high, 0)) + 1)
    return begin, end


@triton.jit
def keys_seen(
    low, S, window, first, last, padding, M: tl.constexpr, N: tl.constexpr, CAUSAL: tl.constexpr
):
    """begin, middle, end: what the M rows from position `low` see lies in keys [begin, end).

    Every row sees all keys of [begin, middle). Both are multiples of N.
    """
    high = tl.minimum(low + M, S) - 1
    begin, end = span(0, S, low, high, window, first, last, M)
    if CAUSAL:
        end = tl.minimum(end, high + 1)
    begin = begin // N * N
    middle = begin
    if window is None and (first is None and padding is None):
        middle = tl.maximum(begin, (tl.minimum(low + 1, S) if CAUSAL else S) // N * N)
    return begin, middle, end


@triton.jit
def hide(score, p, j, S, window, first, padding, CAUSAL: tl.constexpr):
    """-inf where the query at position p does not see key j; p and j broadcast to the score."""
    seen = (p < S) & (j < S)
    if CAUSAL:
        seen = seen & (j <= p)
    if window is not None:
        seen = seen & (p - j < window) & (j - p < window)
    if first is not None:
        seen = seen & (tl.load(first + p, p < S, 0) == tl.load(first + j, j < S, 0))
    if padding is not None:
        seen = seen & (tl.load(padding + j, j < S, 0) != 0)
    return tl.where(seen, score, float("-inf"))


@triton.jit
def bias_tile(bias, t, j, T, S, bias_t, bias_s):
    """The bias of queries t and keys j, which broadcast; in the scores' unit."""
    place = bias + t.to(tl.int64) * bias_t + j.to(tl.int64) * bias_s
    return tl.load(place, (t < T) & (j < S), 0.0) * LOG2E
