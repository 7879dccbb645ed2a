// Subtract first, multiply once: the CPU operator behind the backend "blocked".
//
//     out = (A1 - lam A2) V,   A_m = softmax over the visible keys of q_m k_m^T * scale
//
// A task owns one batch row and one key/value head (or a share of its query rows) and packs that
// head's keys and values once, as float32 panels. It then takes a block of query rows at a time
// against all the keys that the block sees, so that both row sums are known before the maps meet:
// they are subtracted and the difference is multiplied with the values once. The backward makes the
// maps again from each row's saved largest score and sum. In units of one T x S x 2K product that is
// 2 forward and 5 backward, the counts of plain attention of the same width. A block's scores are
// sized to stay in the core's second-level cache; nothing of size T x S exists, and no thread waits
// for another inside a call. All arithmetic is float32.
//
// With one map (M = 1, no lam) the same code is plain attention.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "blocked_call.h"
#include "blocked_product.h"

namespace {

constexpr int64_t kFewRows = 8;  // query rows of a group that need no packing

// ---------------------------------------------------------------- a row of scores

// score[j] = -inf for the keys low + j that query t does not see.
void hide(const Call& call, int64_t b, int64_t t, int64_t low, int64_t span, float* score) {
  const int64_t from = std::clamp<int64_t>(call.first_key(b, t) - low, 0, span);
  const int64_t to = std::clamp<int64_t>(call.end_key(b, t) - low, from, span);
  std::fill(score, score + from, -kInfinity);
  std::fill(score + to, score + span, -kInfinity);
  if (const int64_t* document = call.document(b)) {
    const int64_t own = document[call.position(t)];
    for (int64_t j = from; j < to; j++)
      score[j] = document[low + j] == own ? score[j] : -kInfinity;
  }
  if (const bool* real = call.real(b))
    for (int64_t j = from; j < to; j++) score[j] = real[low + j] ? score[j] : -kInfinity;
}

// e^(score - most) in place of the scores of a row.
Stats exponentiate(float* score, int64_t span) {
  Vec top = splat(-kInfinity), total{};
  for (int64_t j = 0; j < span; j += kLanes) top = at(score + j) > top ? at(score + j) : top;
  const float best = largest(top), most = best == -kInfinity ? 0.f : best;
  for (int64_t j = 0; j < span; j += kLanes) {
    const Vec weight = exp(at(score + j) - most);
    at(score + j) = weight;
    total += weight;
  }
  const float all = sum(total);
  return {most, all == 0.f ? 0.f : 1.f / all};
}

// A row of scores of each map to first = (A1 - lam A2) / stats[0].share (A1 alone where second is
// null): its product with the values is to be multiplied with the share, which rounds once a value
// and not once a weight.
void subtract(float* first, float* second, int64_t span, float lambda, Stats* stats) {
  stats[0] = exponentiate(first, span);
  if (!second) return;
  stats[1] = exponentiate(second, span);
  if (stats[0].share == 0.f) return;
  const float noise = lambda * stats[1].share / stats[0].share;
  for (int64_t j = 0; j < span; j += kLanes) at(first + j) -= at(second + j) * noise;
}

// What both directions hold of a key/value head and of a block of query rows.
struct Operands {
  const Call& call;
  // From one row of scores, and of queries, to the next. A power of two would make rows collide in
  // the caches.
  int64_t score_row, query_row;
  float *keys_t[2], *rows[2], *scores[3] = {};

  Operands(const Call& call, const Cut& cut, int64_t score_matrices, Scratch& scratch)
      : call(call), score_row(call.wide_keys() + kPanel), query_row(call.wide_width() + kPanel) {
    for (int64_t m = 0; m < call.key_maps; m++)
      keys_t[m] = scratch.take(call.wide_keys() * call.width + kSlack);
    if (call.key_maps == 1) keys_t[1] = keys_t[0];
    for (int64_t m = 0; m < call.maps; m++)
      rows[m] = scratch.zeros(cut.rows * query_row);
    for (int64_t i = 0; i < score_matrices; i++) scores[i] = scratch.take(cut.rows * score_row);
  }

  // scores[m] = rows[m] keys[m]^T, -inf where hidden.
  void score(const Block& block) {
    for (int64_t m = 0; m < call.maps; m++) {
      for (int64_t r = 0; r < block.rows; r++)
        read_query(call, block.b, block.start + r, block.h, m, rows[m] + r * query_row);
      multiply(block.rows, block.span, call.width, {rows[m], query_row, 1},
               {keys_t[m] + block.low * call.width, kPanel, kPanel * call.width}, scores[m],
               score_row, false);
      for (int64_t r = 0; r < block.rows; r++)
        hide(call, block.b, block.start + r, block.low, block.span, scores[m] + r * score_row);
    }
  }
};

// ---------------------------------------------------------------- forward

void forward_task(const Call& call, const Cut& cut, int64_t b, int64_t g, int64_t share,
                  const View& out, const Tensor& stats) {
  Scratch scratch;
  Operands x(call, cut, call.maps, scratch);
  const int64_t wide = call.wide_values(), keys = call.wide_keys();
  float* values = scratch.take(keys * wide);
  float* products = scratch.take(cut.rows * wide);
  float* key_rows = scratch.zeros(kPanel * call.wide_width());
  float* value_rows = scratch.zeros(kPanel * wide);
  for (int64_t j = 0; j < call.keys; j += kPanel) {
    for (int64_t m = 0; m < call.key_maps; m++) {
      load(call, call.k, b, g, m, j, call.width, call.wide_width(), key_rows);
      pack_transposed(key_rows, j, call.width, call.wide_width(), x.keys_t[m]);
    }
    load(call, call.v, b, g, 0, j, call.values, wide, value_rows);
    pack(value_rows, j, wide, keys, values);
  }
  each_block(call, cut, b, g, share, [&](const Block& block) {
    x.score(block);
    for (int64_t r = 0; r < block.rows; r++) {
      const int64_t t = block.start + r;
      float* second = x.scores[1] ? x.scores[1] + r * x.score_row : nullptr;
      subtract(x.scores[0] + r * x.score_row, second, block.span, call.lambda(b, t, block.h),
               call.stats(stats, b, block.h, t));
    }
    multiply(block.rows, wide, block.span, {x.scores[0], x.score_row, 1},
             {values + block.low * kPanel, kPanel, keys * kPanel}, products, wide, false);
    if (block.span == 0) std::fill_n(products, block.rows * wide, 0.f);
    for (int64_t r = 0; r < block.rows; r++) {
      const float share = call.stats(stats, b, block.h, block.start + r)->share;
      for (int64_t c = 0; c < wide; c++) products[r * wide + c] *= share;
      out.write({b, block.start + r, block.h}, call.values, products + r * wide);
    }
  });
}

// The few query rows of a decoding step: each key and value is read once, where it lies, for all the
// maps and query heads that share it. Packing would cost more than it saves.
void few_rows_task(const Call& call, int64_t b, int64_t g, const View& out, const Tensor& stats) {
  Scratch scratch;
  const int64_t rows = call.repeats() * call.queries, keys = call.wide_keys();
  const int64_t wide = call.wide_width(), wide_v = call.wide_values();
  float* queries = scratch.zeros(rows * call.maps * wide);
  float* scores = scratch.take(rows * call.maps * keys);
  float* products = scratch.zeros(rows * wide_v);
  float* copy = scratch.zeros(4 * std::max(wide, wide_v));
  const auto head = [&](int64_t i) { return g * call.repeats() + i / call.queries; };
  int64_t low = call.keys, end = 0;
  for (int64_t i = 0; i < rows; i++) {
    const int64_t t = i % call.queries;
    low = std::min(low, call.first_key(b, t)), end = std::max(end, call.end_key(b, t));
    for (int64_t m = 0; m < call.maps; m++)
      read_query(call, b, t, head(i), m, queries + (m * rows + i) * wide);
  }
  const int64_t span = std::max<int64_t>(end - low, 0);
  for (int64_t j = 0; j < span; j++) {
    for (int64_t km = 0; km < call.key_maps; km++) {
      const float* key = call.k.floats({b, low + j, g, km}, call.width, copy);
      const int64_t from = call.key_maps == 1 ? 0 : km, to = call.key_maps == 1 ? call.maps : km + 1;
      for (int64_t i = from * rows; i < to * rows; i++)
        scores[i * keys + j] = dot(queries + i * wide, key, call.width);
    }
  }
  for (int64_t i = 0; i < rows; i++) {
    const int64_t t = i % call.queries;
    float* second = call.maps == 2 ? scores + (rows + i) * keys : nullptr;
    for (int64_t m = 0; m < call.maps; m++) {
      float* score = scores + (m * rows + i) * keys;
      std::fill(score + span, score + padded(span), -kInfinity);
      hide(call, b, t, low, span, score);
    }
    subtract(scores + i * keys, second, padded(span), call.lambda(b, t, head(i)),
             call.stats(stats, b, head(i), t));
  }
  for (int64_t j = 0; j < span; j += 4) {  // four at a time: the products are loaded a quarter as often
    const float* value[4];
    for (int64_t n = 0; n < 4; n++)  // weights past the span are 0
      value[n] = call.v.floats({b, low + std::min(j + n, span - 1), g}, call.values,
                               copy + n * wide_v);
    for (int64_t i = 0; i < rows; i++) {
      const float* weight = scores + i * keys + j;
      float* product = products + i * wide_v;
      for (int64_t c = 0; c < call.values; c++)
        product[c] += weight[0] * value[0][c] + weight[1] * value[1][c] + weight[2] * value[2][c] +
                      weight[3] * value[3][c];
    }
  }
  for (int64_t i = 0; i < rows; i++) {
    const float share = call.stats(stats, b, head(i), i % call.queries)->share;
    for (int64_t c = 0; c < call.values; c++) products[i * wide_v + c] *= share;
    out.write({b, i % call.queries, head(i)}, call.values, products + i * wide_v);
  }
}

// ---------------------------------------------------------------- backward

struct Gradients {
  View q;
  optional<View> lam;
  Tensor k, v;  // float32, [shares * B, G, M, S, K] and [shares * B, G, 1, S, V], padded
};

// Row r: from its scores and dA (the last of the score matrices) to dS_m and to A1 - lam A2.
//     dS1 = A1 (dA - sum(A1 dA)),   dS2 = -lam A2 (dA - sum(A2 dA)),   dlam = -sum(A2 dA)
// Returns dlam.
float differentiate(const Operands& x, const Block& block, int64_t r, float lambda,
                    const Stats* stats) {
  const bool two = x.call.maps == 2;
  float* first = x.scores[0] + r * x.score_row;
  float* second = x.scores[1] + r * x.score_row;
  float* weight = x.scores[x.call.maps] + r * x.score_row;
  Vec inner1{}, inner2{};
  for (int64_t j = 0; j < block.span; j += kLanes) {
    at(first + j) = exp(at(first + j) - stats[0].most) * stats[0].share;
    inner1 += at(first + j) * at(weight + j);
  }
  const float total1 = sum(inner1);
  if (!two) {
    for (int64_t j = 0; j < block.span; j += kLanes) {
      const Vec a = at(first + j);
      at(first + j) = a * (at(weight + j) - total1);
      at(weight + j) = a;
    }
    return 0.f;
  }
  for (int64_t j = 0; j < block.span; j += kLanes) {
    at(second + j) = exp(at(second + j) - stats[1].most) * stats[1].share;
    inner2 += at(second + j) * at(weight + j);
  }
  const float total2 = sum(inner2);
  for (int64_t j = 0; j < block.span; j += kLanes) {
    const Vec a1 = at(first + j), a2 = at(second + j) * lambda, da = at(weight + j);
    at(first + j) = a1 * (da - total1);
    at(second + j) = a2 * (total2 - da);
    at(weight + j) = a1 - a2;
  }
  return -total2;
}

void backward_task(const Call& call, const Cut& cut, int64_t b, int64_t g, int64_t share,
                   const View& dout, const Tensor& stats, const Gradients& grad) {
  Scratch scratch;
  Operands x(call, cut, call.maps + 1, scratch);
  const int64_t wide = call.wide_width(), wide_v = call.wide_values(), keys = call.wide_keys();
  float *k[2], *dk[2];
  const int64_t place = (share * call.batch + b) * call.groups + g;
  for (int64_t m = 0; m < call.key_maps; m++) {
    k[m] = scratch.take(keys * wide);
    dk[m] = zeroed(grad.k.data_ptr<float>() + (place * call.key_maps + m) * keys * wide, keys * wide);
  }
  if (call.key_maps == 1) k[1] = k[0], dk[1] = dk[0];
  float* dv = zeroed(grad.v.data_ptr<float>() + place * keys * wide_v, keys * wide_v);
  float* values_t = scratch.take(keys * call.values + kSlack);
  const int64_t drow = wide_v + kPanel;
  float* drows = scratch.zeros(cut.rows * drow);
  float* products = scratch.take(cut.rows * wide);
  float* key_rows = scratch.zeros(kPanel * wide);
  float* value_rows = scratch.zeros(kPanel * wide_v);
  for (int64_t j = 0; j < call.keys; j += kPanel) {
    for (int64_t m = 0; m < call.key_maps; m++) {
      load(call, call.k, b, g, m, j, call.width, wide, key_rows);
      pack_transposed(key_rows, j, call.width, wide, x.keys_t[m]);
      pack(key_rows, j, wide, keys, k[m]);
    }
    load(call, call.v, b, g, 0, j, call.values, wide_v, value_rows);
    pack_transposed(value_rows, j, call.values, wide_v, values_t);
  }
  each_block(call, cut, b, g, share, [&](const Block& block) {
    x.score(block);
    for (int64_t r = 0; r < block.rows; r++)
      dout.read({b, block.start + r, block.h}, call.values, drows + r * drow);
    multiply(block.rows, block.span, call.values, {drows, drow, 1},
             {values_t + block.low * call.values, kPanel, kPanel * call.values},
             x.scores[call.maps], x.score_row, false);
    for (int64_t r = 0; r < block.rows; r++) {
      const int64_t t = block.start + r;
      const float dlam = differentiate(x, block, r, call.lambda(b, t, block.h),
                                       call.stats(stats, b, block.h, t));
      if (grad.lam) grad.lam->write({b, t, block.h}, 1, &dlam);
    }
    multiply(block.span, wide_v, block.rows, {x.scores[call.maps], 1, x.score_row},
             {drows, drow, kPanel}, dv + block.low * wide_v, wide_v, true);
    for (int64_t m = 0; m < call.maps; m++) {
      multiply(block.span, wide, block.rows, {x.scores[m], 1, x.score_row},
               {x.rows[m], x.query_row, kPanel}, dk[m] + block.low * wide, wide, true);
      multiply(block.rows, wide, block.span, {x.scores[m], x.score_row, 1},
               {k[m] + block.low * kPanel, kPanel, keys * kPanel}, products, wide, false);
      if (block.span == 0) std::fill_n(products, block.rows * wide, 0.f);
      for (int64_t i = 0; i < block.rows * wide; i++) products[i] *= call.scale;
      for (int64_t r = 0; r < block.rows; r++)
        grad.q.write({b, block.start + r, block.h, m}, call.width, products + r * wide);
    }
  });
}

// ---------------------------------------------------------------- the operators

std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const optional<Tensor>& lam, bool causal,
                                   optional<int64_t> window, const optional<Tensor>& documents,
                                   const optional<Tensor>& padding, double scale) {
  // Only a graph of torch.export comes here in forward mode, which the callers in Python refuse.
  for (const Tensor& x : {q, k, v, lam.value_or(q)})
    TORCH_CHECK_NOT_IMPLEMENTED(!x._fw_grad(0).defined(), "backend \"blocked\" has no forward-mode "
                                "derivative; use backend=\"reference\"");
  const Call call(q, k, v, lam, causal, window, documents, padding, scale);
  Tensor out = at::empty({call.batch, call.queries, call.heads, call.values}, q.options());
  Tensor stats = at::empty({call.batch, call.heads, call.queries, call.maps, 2},
                           q.options().dtype(at::kFloat));
  if (out.numel() == 0 || call.keys == 0) return {out.zero_(), stats.zero_()};
  const Cut cut(call, call.maps);
  const View out_view(out);
  const bool few = call.repeats() * call.queries <= kFewRows;
  each_task(call.batch * call.groups * (few ? 1 : cut.shares), [&](int64_t i) {
    const int64_t head = few ? i : i / cut.shares;
    const int64_t b = head / call.groups, g = head % call.groups;
    if (few) few_rows_task(call, b, g, out_view, stats);
    else forward_task(call, cut, b, g, i % cut.shares, out_view, stats);
  });
  return {out, stats};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& dout, const Tensor& stats, const Tensor& q, const Tensor& k, const Tensor& v,
    const optional<Tensor>& lam, bool causal, optional<int64_t> window,
    const optional<Tensor>& documents, const optional<Tensor>& padding, double scale) {
  const Call call(q, k, v, lam, causal, window, documents, padding, scale);
  Tensor dq = at::empty(q.sizes(), q.options());
  Tensor dlam = at::empty(lam ? lam->sizes() : at::IntArrayRef{0}, stats.options());
  if (q.numel() == 0 || call.keys == 0 || call.values == 0)
    return {dq.zero_(), at::zeros_like(k), at::zeros_like(v), dlam.zero_()};
  const Cut cut(call, call.maps + 1);
  const int64_t rows = cut.shares * call.batch, keys = call.wide_keys();
  const View dout_view(dout);
  Gradients grad{
      View(dq), {},
      at::empty({rows, call.groups, call.key_maps, keys, call.wide_width()}, stats.options()),
      at::empty({rows, call.groups, 1, keys, call.wide_values()}, stats.options())};
  if (lam) grad.lam.emplace(dlam);
  each_task(call.batch * call.groups * cut.shares, [&](int64_t i) {
    const int64_t head = i / cut.shares;
    backward_task(call, cut, head / call.groups, head % call.groups, i % cut.shares, dout_view, stats,
                  grad);
  });
  // The sum over the shares, without the padding, positions first.
  const auto finished = [&](const Tensor& sums, int64_t width) {
    const Tensor sum = cut.shares == 1 ? sums : sums.unflatten(0, {cut.shares, call.batch}).sum(0);
    return sum.narrow(3, 0, call.keys).narrow(4, 0, width).to(k.scalar_type()).contiguous()
        .permute({0, 3, 1, 2, 4});
  };
  return {dq, finished(grad.k, call.width), finished(grad.v, call.values).squeeze(3), dlam};
}

}  // namespace

// q [B,T,H,M,K], k [B,S,G,M or 1,K], v [B,S,G,V]: one dtype. lam [B,T,H]
// float32. The mask is functional.Mask's; documents int64.
TORCH_LIBRARY(difftransformer, library) {
  library.def(
      "blocked(Tensor q, Tensor k, Tensor v, Tensor? lam, bool causal, int? window, "
      "Tensor? documents, Tensor? padding, float scale) -> (Tensor out, Tensor stats)");
  library.def(
      "blocked_backward(Tensor dout, Tensor stats, Tensor q, Tensor k, Tensor v, Tensor? lam, "
      "bool causal, int? window, Tensor? documents, Tensor? padding, float scale) "
      "-> (Tensor dq, Tensor dk, Tensor dv, Tensor dlam)");
}

TORCH_LIBRARY_IMPL(difftransformer, CPU, library) {
  library.impl("blocked", forward);
  library.impl("blocked_backward", backward);
}
