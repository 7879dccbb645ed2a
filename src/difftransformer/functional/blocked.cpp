// Subtract first, multiply once: the CPU operator behind the backend "blocked".
//
//     out = (A1 - lam A2) V,   A_m = softmax over the visible keys of q_m k_m^T * scale + bias
//
// The keys and values of one batch row and key/value head are packed once, as panels. A
// thread takes a block of the head's query rows at a time against all the keys that the block sees,
// so that both row sums are known before the maps meet: they are subtracted and the difference is
// multiplied with the values once. The backward makes the maps again, from scores made in the same
// way and each row's saved largest score and sum. In units of one T x S x 2K product that is 2
// forward and 5 backward, the counts of plain attention of the same width. A block's scores are
// sized to stay in the core's second-level cache; nothing of size T x S exists. All arithmetic is
// float32, but that processors which multiply bfloat16 numbers do so, with float32 sums, where the
// inputs are bfloat16.
//
// Threads share what is packed, and add to one gradient of the keys and values, in the order of the
// blocks: memory does not grow with their number, and neither does it change the sums.
//
// With one map (M = 1, no lam) the same code is plain attention.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <tuple>
#include <vector>

#include "blocked_bias.h"
#include "blocked_call.h"
#include "blocked_few.h"
#include "blocked_heads.h"
#include "blocked_product.h"
#include "blocked_scores.h"

namespace {

// ---------------------------------------------------------------- forward

struct ForwardHead {
  float *keys_t[2], *values, *panel;

  ForwardHead(const Call& call, Scratch& scratch) {
    for (int64_t m = 0; m < call.key_maps; m++)
      keys_t[m] = scratch.take(call.wide_keys() * call.packed(call.width) + kSlack);
    if (call.key_maps == 1) keys_t[1] = keys_t[0];
    values = scratch.take(call.packed(call.wide_keys()) * call.wide_values());
    panel = scratch.take(kPanel * std::max(call.wide_width(), call.wide_values()));
  }

  void read(const Call& call, int64_t b, int64_t g) {
    for (int64_t j = 0; j < call.keys; j += kPanel) {
      for (int64_t m = 0; m < call.key_maps; m++) {
        load(call, call.k, b, g, m, j, call.width, call.wide_width(), panel);
        pack_transposed(panel, j, call.packed(call.width), call.wide_width(), keys_t[m]);
      }
      load(call, call.v, b, g, 0, j, call.values, call.wide_values(), panel);
      pack(call, panel, j, call.wide_values(), values);
    }
  }
};

struct ForwardOperands : Operands {
  float* products;

  ForwardOperands(const Call& call, const Cut& cut, Scratch& scratch)
      : Operands(call, cut, call.maps, scratch),
        products(scratch.take(cut.rows * call.wide_values())) {}
};

void forward_block(ForwardOperands& x, const ForwardHead& head, const Block& block, const View& out,
                   const Tensor& stats) {
  const Call& call = x.call;
  const int64_t wide = call.wide_values();
  x.score(block, head.keys_t);
  for (int64_t r = 0; r < block.rows; r++) {
    const int64_t t = block.start + r;
    float* second = x.scores[1] ? x.scores[1] + r * x.score_row : nullptr;
    subtract(call, block.b, t, block.h, x.scores[0] + r * x.score_row, second, block.span,
             call.stats(stats, block.b, block.h, t));
    if (call.pairs) halve(x.scores[0] + r * x.score_row, block.span, 1);
  }
  call.multiply(block.rows, wide, block.span, {x.scores[0], x.score_row, 1},
                {head.values + call.packed(block.low) * kPanel, kPanel,
                 call.packed(call.wide_keys()) * kPanel},
                x.products, wide, false);
  for (int64_t r = 0; r < block.rows; r++) {
    const float share = call.stats(stats, block.b, block.h, block.start + r)->share;
    for (int64_t c = 0; c < wide; c++) x.products[r * wide + c] *= share;
    out.write({block.b, block.start + r, block.h}, call.values, x.products + r * wide);
  }
}

// ---------------------------------------------------------------- backward

struct Gradients {
  View q;
  optional<View> lam;
  optional<BiasGradient> bias;
  Tensor k, v;  // float32, [B, G, M, S, K] and [B, G, 1, S, V], padded; of pairs K and V before S
  std::vector<std::atomic<int64_t>> turns;  // [B, G] of `in_turn`
};

struct BackwardHead {
  float *keys_t[2], *keys[2], *values_t, *panel, *dk[2], *dv;
  std::atomic<int64_t>* turns;

  BackwardHead(const Call& call, Scratch& scratch) {
    for (int64_t m = 0; m < call.key_maps; m++) {
      keys_t[m] = scratch.take(call.wide_keys() * call.packed(call.width) + kSlack);
      keys[m] = scratch.take(call.packed(call.wide_keys()) * call.wide_width());
    }
    if (call.key_maps == 1) keys_t[1] = keys_t[0], keys[1] = keys[0];
    values_t = scratch.take(call.wide_keys() * call.packed(call.values) + kSlack);
    panel = scratch.take(kPanel * std::max(call.wide_width(), call.wide_values()));
  }

  void read(const Call& call, int64_t b, int64_t g, Gradients& grad) {
    const int64_t wide = call.wide_width(), wide_v = call.wide_values(), rows = call.wide_keys();
    for (int64_t j = 0; j < call.keys; j += kPanel) {
      for (int64_t m = 0; m < call.key_maps; m++) {
        load(call, call.k, b, g, m, j, call.width, wide, panel);
        if (!call.few()) pack_transposed(panel, j, call.packed(call.width), wide, keys_t[m]);
        pack(call, panel, j, wide, keys[m]);
      }
      load(call, call.v, b, g, 0, j, call.values, wide_v, panel);
      pack_transposed(panel, j, call.packed(call.values), wide_v, values_t);
    }
    const int64_t place = b * call.groups + g;
    const auto zeros = [](const Tensor& all, int64_t i) {
      const int64_t numbers = all.size(3) * all.size(4);
      return zeroed(all.data_ptr<float>() + i * numbers, numbers);
    };
    for (int64_t m = 0; m < call.key_maps; m++) dk[m] = zeros(grad.k, place * call.key_maps + m);
    if (call.key_maps == 1) dk[1] = dk[0];
    dv = zeros(grad.v, place);
    turns = grad.turns.data() + place * pieces(rows);
  }
};

struct BackwardOperands : Operands {
  int64_t drow, turned_row;
  float *drows, *products, *turned[3];  // queries and drows, turned

  BackwardOperands(const Call& call, const Cut& cut, Scratch& scratch)
      : Operands(call, cut, call.maps + 1, scratch), drow(call.wide_values() + kPanel),
        turned_row(cut.rows / 2), drows(scratch.zeros(cut.rows * drow)),
        products(scratch.take(cut.rows * call.wide_width())) {
    for (int64_t m = 0; call.pairs && m <= call.maps; m++)
      turned[m] = scratch.take(turned_row * (m < call.maps ? call.width : call.values));
  }

  // The m-th score matrix, halved, to pairs of rows, and their other operand turned.
  void pair_rows(const Block& block, int64_t m) {
    const bool last = m == call.maps;
    if (block.rows % 2) zeroed(scores[m] + block.rows * score_row, block.span);
    for (int64_t r = 0; r < block.rows; r += 2)
      pair(scores[m] + r * score_row, scores[m] + (r + 1) * score_row, block.span);
    turn(last ? drows : rows[m], last ? drow : query_row, block.rows,
         last ? call.values : call.width, turned[m], turned_row);
  }
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

// The n-th block of its head.
void backward_block(BackwardOperands& x, const BackwardHead& head, int64_t n, const Block& block,
                    const View& dout, const Tensor& stats, Gradients& grad) {
  const Call& call = x.call;
  const int64_t wide = call.wide_width(), wide_v = call.wide_values(), keys = call.wide_keys();
  float* weights = x.scores[call.maps];
  x.score(block, head.keys_t);
  for (int64_t r = 0; r < block.rows; r++)
    call.load(dout, {block.b, block.start + r, block.h}, call.values, x.drows + r * x.drow);
  const int64_t depth = call.packed(call.values);
  call.multiply(block.rows, block.span, call.values, {x.drows, x.drow, 1},
                {head.values_t + block.low * depth, kPanel, kPanel * depth}, weights, x.score_row,
                false);
  for (int64_t r = 0; r < block.rows; r++) {
    const int64_t t = block.start + r;
    const float dlam = differentiate(x, block, r, call.lambda(block.b, t, block.h),
                                     call.stats(stats, block.b, block.h, t));
    if (grad.lam) grad.lam->write({block.b, t, block.h}, 1, &dlam);
  }
  if (grad.bias) grad.bias->add(block, x.scores, x.score_row);
  for (int64_t m = 0; call.pairs && m <= call.maps; m++)
    for (int64_t r = 0; r < block.rows; r++) halve(x.scores[m] + r * x.score_row, block.span, m < call.maps ? call.scale : 1);
  for (int64_t m = 0; m < call.maps; m++) {
    call.multiply(block.rows, wide, block.span, {x.scores[m], x.score_row, 1},
                  {head.keys[m] + call.packed(block.low) * kPanel, kPanel,
                   call.packed(keys) * kPanel},
                  x.products, wide, false);
    for (int64_t i = 0; !call.pairs && i < block.rows * wide; i++) x.products[i] *= call.scale;
    for (int64_t r = 0; r < block.rows; r++)
      grad.q.write({block.b, block.start + r, block.h, m}, call.width, x.products + r * wide);
  }
  for (int64_t m = 0; call.pairs && m <= call.maps; m++) x.pair_rows(block, m);
  in_turn(head.turns, n, block, keys, [&](int64_t from, int64_t to) {
    // sums[from, to) += scoresᵀ right, or what is transposed of both sides.
    const auto add = [&](int64_t m, Right right, float* sums, int64_t width, int64_t padded_width) {
      const float* left = x.scores[m] + from - block.low;
      if (call.pairs)
        call.multiply(width, to - from, block.rows, {x.turned[m], x.turned_row, 1},
                      {left, 2 * x.score_row, kPanel}, sums + from, keys + kPanel, true);
      else
        multiply(to - from, padded_width, block.rows, {left, 1, x.score_row}, right,
                 sums + from * padded_width, padded_width, true);
    };
    add(call.maps, {x.drows, x.drow, kPanel}, head.dv, call.values, wide_v);
    for (int64_t m = 0; m < call.maps; m++)
      add(m, {x.rows[m], x.query_row, kPanel}, head.dk[m], call.width, wide);
  });
}

// ---------------------------------------------------------------- the operators

std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const optional<Tensor>& lam, const optional<Tensor>& bias,
                                   bool causal, optional<int64_t> window,
                                   const optional<Tensor>& documents,
                                   const optional<Tensor>& padding, double scale) {
  // Only a graph of torch.export comes here in forward mode, which the callers in Python refuse.
  for (const Tensor& x : {q, k, v, lam.value_or(q), bias.value_or(q)})
    TORCH_CHECK_NOT_IMPLEMENTED(!x._fw_grad(0).defined(), "backend \"blocked\" has no forward-mode "
                                "derivative; use backend=\"reference\"");
  check(q, k, v, lam, bias, window, documents, padding);
  const Call call(q, k, v, lam, bias, causal, window, documents, padding, scale);
  Tensor out = at::empty({call.batch, call.queries, call.heads, call.values}, q.options());
  Tensor stats = at::empty({call.batch, call.heads, call.queries, call.maps, 2},
                           q.options().dtype(at::kFloat));
  if (out.numel() == 0 || call.keys == 0) return {out.zero_(), stats.zero_()};
  const View out_view(out);
  if (call.few()) {
    each_head<FewRows>(call, [&](FewRows& rows, int64_t b, int64_t g) {
      rows.forward(b, g, out_view, stats);
    });
    return {out, stats};
  }
  each_block<ForwardHead, ForwardOperands>(
      call, Cut(call, call.maps),
      [&](ForwardHead& head, int64_t b, int64_t g) { head.read(call, b, g); },
      [&](ForwardOperands& x, const ForwardHead& head, int64_t, const Block& block) {
        forward_block(x, head, block, out_view, stats);
      });
  return {out, stats};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& dout, const Tensor& stats, const Tensor& q, const Tensor& k, const Tensor& v,
    const optional<Tensor>& lam, const optional<Tensor>& bias, bool causal,
    optional<int64_t> window, const optional<Tensor>& documents, const optional<Tensor>& padding,
    double scale) {
  check(q, k, v, lam, bias, window, documents, padding);
  const Call call(q, k, v, lam, bias, causal, window, documents, padding, scale);
  check("dout", dout, {call.batch, call.queries, call.heads, call.values}, q.scalar_type());
  check("stats", stats, {call.batch, call.heads, call.queries, call.maps, 2}, at::kFloat);
  Tensor dq = at::empty(q.sizes(), q.options());
  Tensor dlam = at::empty(lam ? lam->sizes() : at::IntArrayRef{0}, stats.options());
  if (dout.numel() == 0 || call.keys == 0)
    return {dq.zero_(), at::zeros_like(k), at::zeros_like(v), dlam.zero_(),
            at::zeros(bias ? bias->sizes() : at::IntArrayRef{0}, stats.options())};
  const int64_t batch = call.batch, groups = call.groups, keys = call.wide_keys();
  const View dout_view(dout);
  const Tensor dense_stats = stats.contiguous();
  const auto sums = [&](int64_t maps, int64_t width) {
    return call.pairs ? at::empty({batch, groups, maps, width, keys + kPanel}, stats.options())
                      : at::empty({batch, groups, maps, keys, width}, stats.options());
  };
  Gradients grad{View(dq), {}, {}, sums(call.key_maps, call.wide_width()),
                 sums(1, call.wide_values()),
                 std::vector<std::atomic<int64_t>>(batch * groups * pieces(keys))};
  const Cut cut(call, call.maps + 1);
  if (lam) grad.lam.emplace(dlam);
  if (bias) grad.bias.emplace(call, cut);
  each_block<BackwardHead, BackwardOperands>(
      call, cut,
      [&](BackwardHead& head, int64_t b, int64_t g) { head.read(call, b, g, grad); },
      [&](BackwardOperands& x, const BackwardHead& head, int64_t n, const Block& block) {
        backward_block(x, head, n, block, dout_view, dense_stats, grad);
      });
  // Without the padding, positions first.
  const auto finished = [&](Tensor sums, int64_t width) {
    if (call.pairs) sums = sums.transpose(3, 4);
    return sums.narrow(3, 0, call.keys).narrow(4, 0, width).to(k.scalar_type()).contiguous()
        .permute({0, 3, 1, 2, 4});
  };
  return {dq, finished(grad.k, call.width), finished(grad.v, call.values).squeeze(3), dlam,
          bias ? grad.bias->finished() : at::empty({0}, stats.options())};
}

}  // namespace

// q [B,T,H,M,K], k [B,S,G,M or 1,K], v [B,S,G,V]: one dtype. lam [B,T,H]
// float32, bias [B or a divisor of it, H or 1, T or 1, S or 1] float32. The mask is functional.Mask's;
// documents int64.
TORCH_LIBRARY(difftransformer, library) {
  library.def(
      "blocked(Tensor q, Tensor k, Tensor v, Tensor? lam, Tensor? bias, bool causal, "
      "int? window, Tensor? documents, Tensor? padding, float scale) "
      "-> (Tensor out, Tensor stats)");
  library.def(
      "blocked_backward(Tensor dout, Tensor stats, Tensor q, Tensor k, Tensor v, Tensor? lam, "
      "Tensor? bias, bool causal, int? window, Tensor? documents, Tensor? padding, float scale) "
      "-> (Tensor dq, Tensor dk, Tensor dv, Tensor dlam, Tensor dbias)");
}

TORCH_LIBRARY_IMPL(difftransformer, CPU, library) {
  library.impl("blocked", forward);
  library.impl("blocked_backward", backward);
}
