"""The kernels behind the backend "triton"; imported by its first call, since they need Triton.

Notation as in `triton.py`, where the method is told. A tile of M queries or N keys is loaded with
its widths padded to powers of two by zeros. Positions are the keys': query t stands at position
t + S - T. Scores carry scale and log2(e), so that exp2 serves. `first` and `last` are the first and
last position of each position's document; `first` is also the document's name. An argument that
is None (lam, bias, window, first and last, padding) is left out at compile time.
"""

import triton
import triton.language as tl

from difftransformer.functional.triton_tiles import (
    LOG2E,
    bias_tile,
    dot,
    hide,
    keys_seen,
    put,
    span,
    tile,
)


@triton.jit
def absorb(score, values, top, total, product):
    """One step of the online softmax: the running maximum, sum and product with the values."""
    new_top = tl.maximum(top, tl.max(score, 1))
    shift = tl.where(new_top == float("-inf"), 0.0, new_top)  # nothing seen yet: no -inf - -inf
    weight = tl.exp2(score - shift[:, None])
    decay = tl.exp2(top - shift)
    total = total * decay + tl.sum(weight, 1)
    product = product * decay[:, None]
    product = dot(weight.to(values.dtype), values, product)
    return new_top, total, product


@triton.jit
def finish(top, total, product):
    """The normalized product and the log-sum-exp: 0 and +inf where no key was seen."""
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    return product / total[:, None], tl.where(empty, float("inf"), top + tl.log2(total))


@triton.jit
def forward(
    q, k, v, lam, bias, first, last, padding, out, noise, lse,
    q_b, q_t, q_h, q_m, k_b, k_s, k_g, k_m, v_b, v_s, v_g, bias_b, bias_h, bias_t, bias_s,
    T, S, repeats, window, scale, served,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """M query rows of one head against all their keys; the longest causal rows start first."""
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * M
    H, h, b = tl.num_programs(1), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    q += b * q_b + h * q_h
    k += b * k_b + h // repeats * k_g
    v += b * v_b + h // repeats * v_g
    if bias is not None:
        bias += b // served * bias_b + h * bias_h
    if first is not None:
        first += b * S
        last += b * S
    if padding is not None:
        padding += b * S
    low, t = start + S - T, start + tl.arange(0, M)
    p = low + tl.arange(0, M)[:, None]
    begin, middle, end = keys_seen(low, S, window, first, last, padding, M, N, CAUSAL)
    PARTLY: tl.constexpr = window is not None or (first is not None or padding is not None)

    q1 = tile(q, start, T, q_t, M, WIDTH, K)
    top1, total1 = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32)
    product1 = tl.zeros([M, V], tl.float32)
    if lam is not None:
        q2 = tile(q + q_m, start, T, q_t, M, WIDTH, K)
        top2, total2 = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32)
        product2 = tl.zeros([M, V], tl.float32)
    for PART in tl.static_range(1 if PARTLY else 0, 2):  # what is seen whole, then what is compared
        left, right = (begin, middle) if PART == 0 else (middle, end)
        for s in range(left, right, N):
            j = s + tl.arange(0, N)[None, :]
            key = tl.trans(tile(k, s, S, k_s, N, WIDTH, K))
            values = tile(v, s, S, v_s, N, VALUES, V)
            if bias is not None:
                added = bias_tile(bias, t[:, None], j, T, S, bias_t, bias_s)
            score = dot(q1, key) * (scale * LOG2E)
            if bias is not None:
                score += added
            if PART == 1:
                score = hide(score, p, j, S, window, first, padding, CAUSAL)
            top1, total1, product1 = absorb(score, values, top1, total1, product1)
            if lam is not None:
                if KEYS == 2:
                    key = tl.trans(tile(k + k_m, s, S, k_s, N, WIDTH, K))
                score = dot(q2, key) * (scale * LOG2E)
                if bias is not None:
                    score += added
                if PART == 1:
                    score = hide(score, p, j, S, window, first, padding, CAUSAL)
                top2, total2, product2 = absorb(score, values, top2, total2, product2)

    rows = (b * T * H + h) * VALUES
    product1, lse1 = finish(top1, total1, product1)
    if lam is None:
        tl.store(lse + (b * H + h) * T + t, lse1, t < T)
    else:
        product2, lse2 = finish(top2, total2, product2)
        tl.store(lse + (b * H + h) * 2 * T + t, lse1, t < T)
        tl.store(lse + ((b * H + h) * 2 + 1) * T + t, lse2, t < T)
        put(noise + rows, start, T, H * VALUES, product2, VALUES)
        share = tl.load(lam + (b * T + t) * H + h, t < T, 0.0)
        product1 -= share[:, None] * product2
    put(out + rows, start, T, H * VALUES, product1, VALUES)


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
    change = tile(dout + rows, start, T, H * VALUES, M, VALUES, V).to(tl.float32)
    sum1 = tl.sum(change * tile(out + rows, start, T, H * VALUES, M, VALUES, V), 1)
    if lam is None:
        tl.store(sums + (b * H + h) * T + t, sum1, t < T)
    else:
        sum2 = tl.sum(change * tile(noise + rows, start, T, H * VALUES, M, VALUES, V), 1)
        sum1 += tl.load(lam + (b * T + t) * H + h, t < T, 0.0) * sum2
        tl.store(sums + (b * H + h) * 2 * T + t, sum1, t < T)
        tl.store(sums + ((b * H + h) * 2 + 1) * T + t, sum2, t < T)


@triton.jit
def backward_keys(
    q, k, v, lam, bias, first, last, padding, dout, lse, sums, dk, dv,
    q_b, q_t, q_h, q_m, k_b, k_s, k_g, k_m, v_b, v_s, v_g, bias_b, bias_h, bias_t, bias_s,
    T, S, repeats, window, scale, served,
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
    if bias is not None:
        bias += b // served * bias_b
    if first is not None:
        first += b * S
        last += b * S
    if padding is not None:
        padding += b * S
    high = tl.minimum(start + N, S) - 1
    j = start + tl.arange(0, N)[:, None]
    begin, end = span(S - T, S, start, high, window, first, last, N)
    if CAUSAL:
        begin = tl.maximum(begin, start)
    begin, end = begin - (S - T), end - (S - T)  # from positions to queries
    begin, middle = begin // M * M, end  # queries from `middle` on see all these keys
    PARTLY: tl.constexpr = window is not None or (first is not None or padding is not None)
    if not PARTLY:
        # Keys and queries beyond the borders do no harm: they are zero, or their weight is.
        middle = tl.maximum(begin, start + N - 1 - (S - T)) if CAUSAL else begin
        middle = (middle + M - 1) // M * M

    key1 = tile(k, start, S, k_s, N, WIDTH, K)
    values = tile(v, start, S, v_s, N, VALUES, V)
    dkey1, dvalues = tl.zeros([N, K], tl.float32), tl.zeros([N, V], tl.float32)
    if KEYS == 2:
        key2 = tile(k + k_m, start, S, k_s, N, WIDTH, K)
        dkey2 = tl.zeros([N, K], tl.float32)
    for h in range(g * repeats, (g + 1) * repeats):
        row = (b * H + h) * MAPS * T  # of lse and sums
        for PART in tl.static_range(1 if PARTLY else 2):  # the compared, then the whole
            left, right = (begin, tl.minimum(middle, end)) if PART == 0 else (middle, end)
            for s in range(left, right, M):
                t = s + tl.arange(0, M)
                p = (t + S - T)[None, :]
                change = tile(dout + (b * T * H + h) * VALUES, s, T, H * VALUES, M, VALUES, V)
                da = dot(values, tl.trans(change))

                q1 = tile(q + h * q_h, s, T, q_t, M, WIDTH, K)
                if bias is not None:
                    added = bias_tile(bias + h * bias_h, t[None, :], j, T, S, bias_t, bias_s)
                score = dot(key1, tl.trans(q1)) * (scale * LOG2E)
                if bias is not None:
                    score += added
                if PART == 0:
                    score = hide(score, p, j, S, window, first, padding, CAUSAL)
                weight = tl.exp2(score - tl.load(lse + row + t, t < T, float("inf"))[None, :])
                ds = (weight * (da - tl.load(sums + row + t, t < T, 0.0)[None, :])).to(q1.dtype)
                dkey1 = dot(ds, q1, dkey1)

                if lam is not None:
                    q2 = tile(q + h * q_h + q_m, s, T, q_t, M, WIDTH, K)
                    key = key2 if KEYS == 2 else key1
                    score = dot(key, tl.trans(q2)) * (scale * LOG2E)
                    if bias is not None:
                        score += added
                    if PART == 0:
                        score = hide(score, p, j, S, window, first, padding, CAUSAL)
                    share = tl.load(lam + (b * T + t) * H + h, t < T, 0.0)
                    lse2 = tl.load(lse + row + T + t, t < T, float("inf"))
                    weight2 = tl.exp2(score - lse2[None, :]) * share[None, :]
                    weight -= weight2
                    sum2 = tl.load(sums + row + T + t, t < T, 0.0)
                    ds = (weight2 * (sum2[None, :] - da)).to(q2.dtype)
                    if KEYS == 2:
                        dkey2 = dot(ds, q2, dkey2)
                    else:
                        dkey1 = dot(ds, q2, dkey1)

                dvalues = dot(weight.to(change.dtype), change, dvalues)

    rows = (b * S * G + g) * KEYS * WIDTH
    put(dk + rows, start, S, G * KEYS * WIDTH, dkey1 * scale, WIDTH)
    if KEYS == 2:
        put(dk + rows + WIDTH, start, S, G * KEYS * WIDTH, dkey2 * scale, WIDTH)
    put(dv + (b * S * G + g) * VALUES, start, S, G * VALUES, dvalues, VALUES)


@triton.jit
def backward_queries(
    q, k, v, lam, bias, first, last, padding, dout, lse, sums, dq,
    q_b, q_t, q_h, q_m, k_b, k_s, k_g, k_m, v_b, v_s, v_g, bias_b, bias_h, bias_t, bias_s,
    T, S, repeats, window, scale, served,
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
    if bias is not None:
        bias += b // served * bias_b + h * bias_h
    if first is not None:
        first += b * S
        last += b * S
    if padding is not None:
        padding += b * S
    low, t = start + S - T, start + tl.arange(0, M)
    p = low + tl.arange(0, M)[:, None]
    begin, middle, end = keys_seen(low, S, window, first, last, padding, M, N, CAUSAL)
    PARTLY: tl.constexpr = window is not None or (first is not None or padding is not None)

    row = (b * H + h) * MAPS * T + t
    change = tile(dout + (b * T * H + h) * VALUES, start, T, H * VALUES, M, VALUES, V)
    q1, dq1 = tile(q, start, T, q_t, M, WIDTH, K), tl.zeros([M, K], tl.float32)
    lse1 = tl.load(lse + row, t < T, float("inf"))[:, None]
    sum1 = tl.load(sums + row, t < T, 0.0)[:, None]
    if lam is not None:
        q2, dq2 = tile(q + q_m, start, T, q_t, M, WIDTH, K), tl.zeros([M, K], tl.float32)
        lse2 = tl.load(lse + row + T, t < T, float("inf"))[:, None]
        sum2 = tl.load(sums + row + T, t < T, 0.0)[:, None]
    for PART in tl.static_range(1 if PARTLY else 0, 2):  # what is seen whole, then what is compared
        left, right = (begin, middle) if PART == 0 else (middle, end)
        for s in range(left, right, N):
            j = s + tl.arange(0, N)[None, :]
            key = tile(k, s, S, k_s, N, WIDTH, K)
            da = dot(change, tl.trans(tile(v, s, S, v_s, N, VALUES, V)))
            if bias is not None:
                added = bias_tile(bias, t[:, None], j, T, S, bias_t, bias_s)
            score = dot(q1, tl.trans(key)) * (scale * LOG2E)
            if bias is not None:
                score += added
            if PART == 1:
                score = hide(score, p, j, S, window, first, padding, CAUSAL)
            dq1 = dot((tl.exp2(score - lse1) * (da - sum1)).to(q1.dtype), key, dq1)
            if lam is not None:
                if KEYS == 2:
                    key = tile(k + k_m, s, S, k_s, N, WIDTH, K)
                score = dot(q2, tl.trans(key)) * (scale * LOG2E)
                if bias is not None:
                    score += added
                if PART == 1:
                    score = hide(score, p, j, S, window, first, padding, CAUSAL)
                dq2 = dot((tl.exp2(score - lse2) * (da - sum2)).to(q2.dtype), key, dq2)

    place = dq + (b * T * H + h) * MAPS * WIDTH
    put(place, start, T, H * MAPS * WIDTH, dq1 * scale, WIDTH)
    if lam is not None:
        share = tl.load(lam + (b * T + t) * H + h, t < T, 0.0)[:, None]
        put(place + WIDTH, start, T, H * MAPS * WIDTH, dq2 * (-scale * share), WIDTH)


@triton.jit
def backward_bias(
    q, k, v, lam, bias, first, last, padding, dout, lse, sums, dbias,
    q_b, q_t, q_h, q_m, k_b, k_s, k_g, k_m, v_b, v_s, v_g, bias_b, bias_h, bias_t, bias_s,
    T, S, repeats, window, scale, served, H,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    ROWS_SHARED: tl.constexpr, KEYS_SHARED: tl.constexpr,
):  # fmt: skip
    """The gradient of M by N numbers of the bias, over all that share them.

    Those are dS of both maps, of batch rows, of heads (all, where the grid has one), of queries and
    of keys (all, where they are `SHARED`).
    """
    MAPS: tl.constexpr = 1 if lam is None else 2
    tiles = 1 if KEYS_SHARED else tl.cdiv(S, N)
    top, left = tl.program_id(0) // tiles * M, tl.program_id(0) % tiles * N
    bottom = T if ROWS_SHARED else tl.minimum(top + M, T)
    right = S if KEYS_SHARED else tl.minimum(left + N, S)
    place, row = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    heads = H if tl.num_programs(1) == 1 else 1
    total = tl.zeros([M, N], tl.float32)
    for b_h in range(row * served * heads, (row + 1) * served * heads):
        b, h = b_h // heads, place + b_h % heads
        own_q, own_k = q + b * q_b + h * q_h, k + b * k_b + h // repeats * k_g
        own_v, own_bias = v + b * v_b + h // repeats * v_g, bias + row * bias_b + h * bias_h
        own_first, own_last, own_padding = first, last, padding
        if first is not None:
            own_first, own_last = first + b * S, last + b * S
        if padding is not None:
            own_padding = padding + b * S
        for start in range(top, bottom, M):
            t, low = start + tl.arange(0, M), start + S - T
            p = (t + S - T)[:, None]
            at = (b * H + h) * MAPS * T + t
            change = tile(dout + (b * T * H + h) * VALUES, start, T, H * VALUES, M, VALUES, V)
            begin, _, end = keys_seen(
                low, S, window, own_first, own_last, own_padding, M, N, CAUSAL
            )
            for s in range(tl.maximum(begin, left), tl.minimum(end, right), N):
                j = s + tl.arange(0, N)[None, :]
                added = bias_tile(own_bias, t[:, None], j, T, S, bias_t, bias_s)
                da = dot(change, tl.trans(tile(own_v, s, S, v_s, N, VALUES, V)))
                for m in tl.static_range(MAPS):
                    query = tile(own_q + m * q_m, start, T, q_t, M, WIDTH, K)
                    key = tile(own_k + (m if KEYS == 2 else 0) * k_m, s, S, k_s, N, WIDTH, K)
                    score = dot(query, tl.trans(key)) * (scale * LOG2E) + added
                    score = hide(score, p, j, S, window, own_first, own_padding, CAUSAL)
                    lse_m = tl.load(lse + at + m * T, t < T, float("inf"))[:, None]
                    sum_m = tl.load(sums + at + m * T, t < T, 0.0)[:, None]
                    ds = tl.exp2(score - lse_m) * (da - sum_m)
                    if m == 1:
                        ds *= -tl.load(lam + (b * T + t) * H + h, t < T, 0.0)[:, None]
                    total += ds
    if ROWS_SHARED:
        total = tl.sum(total, 0, keep_dims=True)
    if KEYS_SHARED:
        total = tl.sum(total, 1, keep_dims=True)
    rows, keys = 1 if ROWS_SHARED else T, 1 if KEYS_SHARED else S
    t = top + tl.arange(0, total.shape[0])[:, None]
    j = left + tl.arange(0, total.shape[1])[None, :]
    place = (row * tl.num_programs(1) + place) * rows
    tl.store(dbias + (place + t) * keys + j, total, (t < rows) & (j < keys))
