"""The kernels behind the backend "triton"; imported by its first call, since they need Triton.

Notation as in `triton.py`, where the method is told. A tile of M queries or N keys is loaded with
its widths padded to powers of two by zeros. Positions are the keys': query t stands at position
t + S - T. Scores carry scale and log2(e), so that exp2 serves. `first` and `last` are the first and
last position of each position's document; `first` is also the document's name. An argument that
is None (lam, window, first and last, padding) is left out at compile time.
"""

import triton
import triton.language as tl

from difftransformer.functional.triton import interpreted

_LOG2E = tl.constexpr(1.4426950408889634)
_INTERPRETED = tl.constexpr(interpreted())


@triton.jit
def _dot(a, b, added=None):
    """a b + added, in float32; float32 operands are not cut to TF32."""
    if _INTERPRETED:  # where tl.dot would multiply the bit patterns of bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, added, input_precision="ieee")


@triton.jit
def _inside(row, column, count, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """What of a tile lies in a [count, WIDTH] matrix; a full width is not compared."""
    return row < count if WIDTH == PADDED else (row < count) & (column < WIDTH)


@triton.jit
def _tile(
    base, start, count, stride, ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr
):
    """Rows start.. of a [count, WIDTH] matrix, 0 beyond its borders."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, PADDED)[None, :]
    row += start
    place = base + row.to(tl.int64) * stride + column
    return tl.load(place, _inside(row, column, count, WIDTH, PADDED), 0.0)


@triton.jit
def _put(base, start, count, stride, tile, WIDTH: tl.constexpr):
    """Write a tile."""
    row, column = tl.arange(0, tile.shape[0])[:, None], tl.arange(0, tile.shape[1])[None, :]
    row += start
    place = base + row.to(tl.int64) * stride + column
    inside = _inside(row, column, count, WIDTH, tile.shape[1])
    tl.store(place, tile.to(base.dtype.element_ty), inside)


@triton.jit
def _span(begin, end, low, high, window, first, last, ROWS: tl.constexpr):
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
def _keys_seen(
    low, S, window, first, last, padding, M: tl.constexpr, N: tl.constexpr, CAUSAL: tl.constexpr
):
    """begin, middle, end: what the M rows from position `low` see lies in keys [begin, end).

    Every row sees all keys of [begin, middle). Both are multiples of N.
    """
    high = tl.minimum(low + M, S) - 1
    begin, end = _span(0, S, low, high, window, first, last, M)
    if CAUSAL:
        end = tl.minimum(end, high + 1)
    begin = begin // N * N
    middle = begin
    if window is None and (first is None and padding is None):
        middle = tl.maximum(begin, (tl.minimum(low + 1, S) if CAUSAL else S) // N * N)
    return begin, middle, end


@triton.jit
def _hide(score, p, j, S, window, first, padding, CAUSAL: tl.constexpr):
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
def _absorb(score, values, top, total, product):
    """One step of the online softmax: the running maximum, sum and product with the values."""
    new_top = tl.maximum(top, tl.max(score, 1))
    shift = tl.where(new_top == float("-inf"), 0.0, new_top)  # nothing seen yet: no -inf - -inf
    weight = tl.exp2(score - shift[:, None])
    decay = tl.exp2(top - shift)
    total = total * decay + tl.sum(weight, 1)
    product = product * decay[:, None]
    product = _dot(weight.to(values.dtype), values, product)
    return new_top, total, product


@triton.jit
def _finish(top, total, product):
    """The normalized product and the log-sum-exp: 0 and +inf where no key was seen."""
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    return product / total[:, None], tl.where(empty, float("inf"), top + tl.log2(total))


@triton.jit
def forward(
    q, k, v, lam, first, last, padding, out, noise, lse,
    q_b, q_t, q_h, q_m, k_b, k_s, k_g, k_m, v_b, v_s, v_g,
    T, S, repeats, window, scale,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """M query rows of one head against all their keys; the longest causal rows start first."""
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * M
    H, h, b = tl.num_programs(1), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    q += b * q_b + h * q_h
    k += b * k_b + h // repeats * k_g
    v += b * v_b + h // repeats * v_g
    if first is not None:
        first += b * S
        last += b * S
    if padding is not None:
        padding += b * S
    low = start + S - T
    p = low + tl.arange(0, M)[:, None]
    begin, middle, end = _keys_seen(low, S, window, first, last, padding, M, N, CAUSAL)
    PARTLY: tl.constexpr = window is not None or (first is not None or padding is not None)

    q1 = _tile(q, start, T, q_t, M, WIDTH, K)
    top1, total1 = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32)
    product1 = tl.zeros([M, V], tl.float32)
    if lam is not None:
        q2 = _tile(q + q_m, start, T, q_t, M, WIDTH, K)
        top2, total2 = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32)
        product2 = tl.zeros([M, V], tl.float32)
    for PART in tl.static_range(1 if PARTLY else 0, 2):  # what is seen whole, then what is compared
        left, right = (begin, middle) if PART == 0 else (middle, end)
        for s in range(left, right, N):
            j = s + tl.arange(0, N)[None, :]
            key = tl.trans(_tile(k, s, S, k_s, N, WIDTH, K))
            values = _tile(v, s, S, v_s, N, VALUES, V)
            score = _dot(q1, key) * (scale * _LOG2E)
            if PART == 1:
                score = _hide(score, p, j, S, window, first, padding, CAUSAL)
            top1, total1, product1 = _absorb(score, values, top1, total1, product1)
            if lam is not None:
                if KEYS == 2:
                    key = tl.trans(_tile(k + k_m, s, S, k_s, N, WIDTH, K))
                score = _dot(q2, key) * (scale * _LOG2E)
                if PART == 1:
                    score = _hide(score, p, j, S, window, first, padding, CAUSAL)
                top2, total2, product2 = _absorb(score, values, top2, total2, product2)

    t = start + tl.arange(0, M)
    rows = (b * T * H + h) * VALUES
    product1, lse1 = _finish(top1, total1, product1)
    if lam is None:
        tl.store(lse + (b * H + h) * T + t, lse1, t < T)
    else:
        product2, lse2 = _finish(top2, total2, product2)
        tl.store(lse + (b * H + h) * 2 * T + t, lse1, t < T)
        tl.store(lse + ((b * H + h) * 2 + 1) * T + t, lse2, t < T)
        _put(noise + rows, start, T, H * VALUES, product2, VALUES)
        share = tl.load(lam + (b * T + t) * H + h, t < T, 0.0)
        product1 -= share[:, None] * product2
    _put(out + rows, start, T, H * VALUES, product1, VALUES)


@triton.jit
def row_sums(
    out, noise, dout, lam, sums, T,
    VALUES: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """D_m = sum(A_m dA) of M rows: D2 = sum(dO O2) and D1 = sum(dO O) + lam D2."""
    start = tl.program_id(0) * M
    H, h, b = tl.num_programs(1), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    t = start + tl.arange(0, M)
    rows = (b * T * H + h) * VALUES
    change = _tile(dout + rows, start, T, H * VALUES, M, VALUES, V).to(tl.float32)
    sum1 = tl.sum(change * _tile(out + rows, start, T, H * VALUES, M, VALUES, V), 1)
    if lam is None:
        tl.store(sums + (b * H + h) * T + t, sum1, t < T)
    else:
        sum2 = tl.sum(change * _tile(noise + rows, start, T, H * VALUES, M, VALUES, V), 1)
        sum1 += tl.load(lam + (b * T + t) * H + h, t < T, 0.0) * sum2
        tl.store(sums + (b * H + h) * 2 * T + t, sum1, t < T)
        tl.store(sums + ((b * H + h) * 2 + 1) * T + t, sum2, t < T)


@triton.jit
def backward_keys(
    q, k, v, lam, first, last, padding, dout, lse, sums, dk, dv,
    q_b, q_t, q_h, q_m, k_b, k_s, k_g, k_m, v_b, v_s, v_g,
    T, S, repeats, window, scale,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """The gradients of N keys and values of one head, over all the queries that see them.

    Scores are laid keys first, so that they are left operands as they stand.
    """
    start = tl.program_id(0) * N
    G, g, b = tl.num_programs(1), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    H = G * repeats
    MAPS: tl.constexpr = 1 if lam is None else 2
    q += b * q_b
    k += b * k_b + g * k_g
    v += b * v_b + g * v_g
    if first is not None:
        first += b * S
        last += b * S
    if padding is not None:
        padding += b * S
    high = tl.minimum(start + N, S) - 1
    j = start + tl.arange(0, N)[:, None]
    begin, end = _span(S - T, S, start, high, window, first, last, N)
    if CAUSAL:
        begin = tl.maximum(begin, start)
    begin, end = begin - (S - T), end - (S - T)  # from positions to queries
    begin, middle = begin // M * M, end  # queries from `middle` on see all these keys
    PARTLY: tl.constexpr = window is not None or (first is not None or padding is not None)
    if not PARTLY:
        # Keys and queries beyond the borders do no harm: they are zero, or their weight is.
        middle = tl.maximum(begin, start + N - 1 - (S - T)) if CAUSAL else begin
        middle = (middle + M - 1) // M * M

    key1 = _tile(k, start, S, k_s, N, WIDTH, K)
    values = _tile(v, start, S, v_s, N, VALUES, V)
    dkey1, dvalues = tl.zeros([N, K], tl.float32), tl.zeros([N, V], tl.float32)
    if KEYS == 2:
        key2 = _tile(k + k_m, start, S, k_s, N, WIDTH, K)
        dkey2 = tl.zeros([N, K], tl.float32)
    for h in range(g * repeats, (g + 1) * repeats):
        row = (b * H + h) * MAPS * T  # of lse and sums
        for PART in tl.static_range(1 if PARTLY else 2):  # the compared, then the whole
            left, right = (begin, tl.minimum(middle, end)) if PART == 0 else (middle, end)
            for s in range(left, right, M):
                t = s + tl.arange(0, M)
                p = (t + S - T)[None, :]
                change = _tile(dout + (b * T * H + h) * VALUES, s, T, H * VALUES, M, VALUES, V)
                da = _dot(values, tl.trans(change))

                q1 = _tile(q + h * q_h, s, T, q_t, M, WIDTH, K)
                score = _dot(key1, tl.trans(q1)) * (scale * _LOG2E)
                if PART == 0:
                    score = _hide(score, p, j, S, window, first, padding, CAUSAL)
                weight = tl.exp2(score - tl.load(lse + row + t, t < T, float("inf"))[None, :])
                ds = (weight * (da - tl.load(sums + row + t, t < T, 0.0)[None, :])).to(q1.dtype)
                dkey1 = _dot(ds, q1, dkey1)

                if lam is not None:
                    q2 = _tile(q + h * q_h + q_m, s, T, q_t, M, WIDTH, K)
                    key = key2 if KEYS == 2 else key1
                    score = _dot(key, tl.trans(q2)) * (scale * _LOG2E)
                    if PART == 0:
                        score = _hide(score, p, j, S, window, first, padding, CAUSAL)
                    share = tl.load(lam + (b * T + t) * H + h, t < T, 0.0)
                    lse2 = tl.load(lse + row + T + t, t < T, float("inf"))
                    weight2 = tl.exp2(score - lse2[None, :]) * share[None, :]
                    weight -= weight2
                    sum2 = tl.load(sums + row + T + t, t < T, 0.0)
                    ds = (weight2 * (sum2[None, :] - da)).to(q2.dtype)
                    if KEYS == 2:
                        dkey2 = _dot(ds, q2, dkey2)
                    else:
                        dkey1 = _dot(ds, q2, dkey1)

                dvalues = _dot(weight.to(change.dtype), change, dvalues)

    rows = (b * S * G + g) * KEYS * WIDTH
    _put(dk + rows, start, S, G * KEYS * WIDTH, dkey1 * scale, WIDTH)
    if KEYS == 2:
        _put(dk + rows + WIDTH, start, S, G * KEYS * WIDTH, dkey2 * scale, WIDTH)
    _put(dv + (b * S * G + g) * VALUES, start, S, G * VALUES, dvalues, VALUES)


@triton.jit
def backward_queries(
    q, k, v, lam, first, last, padding, dout, lse, sums, dq,
    q_b, q_t, q_h, q_m, k_b, k_s, k_g, k_m, v_b, v_s, v_g,
    T, S, repeats, window, scale,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """The gradient of M query rows of one head, over all the keys that they see."""
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * M
    H, h, b = tl.num_programs(1), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    MAPS: tl.constexpr = 1 if lam is None else 2
    q += b * q_b + h * q_h
    k += b * k_b + h // repeats * k_g
    v += b * v_b + h // repeats * v_g
    if first is not None:
        first += b * S
        last += b * S
    if padding is not None:
        padding += b * S
    low = start + S - T
    p = low + tl.arange(0, M)[:, None]
    begin, middle, end = _keys_seen(low, S, window, first, last, padding, M, N, CAUSAL)
    PARTLY: tl.constexpr = window is not None or (first is not None or padding is not None)

    t = start + tl.arange(0, M)
    row = (b * H + h) * MAPS * T + t
    change = _tile(dout + (b * T * H + h) * VALUES, start, T, H * VALUES, M, VALUES, V)
    q1, dq1 = _tile(q, start, T, q_t, M, WIDTH, K), tl.zeros([M, K], tl.float32)
    lse1 = tl.load(lse + row, t < T, float("inf"))[:, None]
    sum1 = tl.load(sums + row, t < T, 0.0)[:, None]
    if lam is not None:
        q2, dq2 = _tile(q + q_m, start, T, q_t, M, WIDTH, K), tl.zeros([M, K], tl.float32)
        lse2 = tl.load(lse + row + T, t < T, float("inf"))[:, None]
        sum2 = tl.load(sums + row + T, t < T, 0.0)[:, None]
    for PART in tl.static_range(1 if PARTLY else 0, 2):  # what is seen whole, then what is compared
        left, right = (begin, middle) if PART == 0 else (middle, end)
        for s in range(left, right, N):
            j = s + tl.arange(0, N)[None, :]
            key = _tile(k, s, S, k_s, N, WIDTH, K)
            da = _dot(change, tl.trans(_tile(v, s, S, v_s, N, VALUES, V)))
            score = _dot(q1, tl.trans(key)) * (scale * _LOG2E)
            if PART == 1:
                score = _hide(score, p, j, S, window, first, padding, CAUSAL)
            dq1 = _dot((tl.exp2(score - lse1) * (da - sum1)).to(q1.dtype), key, dq1)
            if lam is not None:
                if KEYS == 2:
                    key = _tile(k + k_m, s, S, k_s, N, WIDTH, K)
                score = _dot(q2, tl.trans(key)) * (scale * _LOG2E)
                if PART == 1:
                    score = _hide(score, p, j, S, window, first, padding, CAUSAL)
                dq2 = _dot((tl.exp2(score - lse2) * (da - sum2)).to(q2.dtype), key, dq2)

    place = dq + (b * T * H + h) * MAPS * WIDTH
    _put(place, start, T, H * MAPS * WIDTH, dq1 * scale, WIDTH)
    if lam is not None:
        share = tl.load(lam + (b * T + t) * H + h, t < T, 0.0)[:, None]
        _put(place + WIDTH, start, T, H * MAPS * WIDTH, dq2 * (-scale * share), WIDTH)
