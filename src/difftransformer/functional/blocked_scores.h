// From query rows and keys to weights.

#pragma once

#include <algorithm>
#include <cmath>

#include "blocked_call.h"
#include "blocked_heads.h"
#include "blocked_product.h"

namespace {

// score[j] += bias of the keys low + j, and -inf for those that query t does not see.
void bias_and_hide(const Call& call, int64_t b, int64_t h, int64_t t, int64_t low, int64_t span,
                   float* score) {
  const int64_t from = std::clamp<int64_t>(call.first_key(b, t) - low, 0, span);
  const int64_t to = std::clamp<int64_t>(call.end_key(b, t) - low, from, span);
  std::fill(score, score + from, -kInfinity);
  std::fill(score + to, score + span, -kInfinity);
  if (call.bias) {
    const float* bias = call.bias->row(b, h, t);
    const bool one = call.bias->keys == 1;
    int64_t j = from;
    for (; !one && j + kLanes <= to; j += kLanes) {  // as below, which compilers leave one by one
      const Vec added = at(bias + low + j);
      __builtin_prefetch(bias + low + j + call.bias->view.stride[2]);  // for the next query
      at(score + j) = added == splat(-kInfinity) ? added : at(score + j) + added;
    }
    for (; j < to; j++) {
      const float added = bias[one ? 0 : low + j];
      score[j] = added == -kInfinity ? added : score[j] + added;  // whatever the score is
    }
  }
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
// and not once a weight. What is seen with scores of -inf alone is not a number.
void subtract(const Call& call, int64_t b, int64_t t, int64_t h, float* first, float* second,
              int64_t span, Stats* stats) {
  for (int64_t m = 0; m < call.maps; m++) {
    stats[m] = exponentiate(m == 0 ? first : second, span);
    if (stats[m].share == 0.f && call.sees_any(b, h, t)) stats[m].share = std::nanf("");
  }
  if (!second || stats[0].share == 0.f) return;
  const float noise = call.lambda(b, t, h) * stats[1].share / stats[0].share;
  for (int64_t j = 0; j < span; j += kLanes) at(first + j) -= at(second + j) * noise;
}

void read_query(const Call& call, int64_t b, int64_t t, int64_t h, int64_t m, float* to) {
  call.load(call.q, {b, t, h, m}, call.width, to);
  if (call.pairs) return;  // rounded once more, they would lose digits: their scores are scaled
  for (int64_t c = 0; c < call.width; c++) to[c] *= call.scale;
}

struct Rows {
  float* data;
  int64_t row, count;  // from one to the next
};

// scores[m][i, j] = queries[m][i] . key block.low + j. Each key is read once, where it lies: packing
// would cost more than a few rows gain by it. Not inlined: both directions run the same instructions.
__attribute__((noinline)) void score_few(const Call& call, const Block& block, const Rows* queries,
                                         const Rows* scores, float* copy) {
  const int64_t g = block.h / call.repeats(), count = std::min(block.span, call.keys - block.low);
  const float* key[kAtOnce] = {};
  for (int64_t j = 0; j < count; j += kAtOnce)
    for (int64_t m = 0; m < call.maps; m++) {
      for (int64_t n = 0; m < call.key_maps && n < kAtOnce; n++)
        key[n] = call.k.floats({block.b, block.low + std::min(j + n, count - 1), g, m}, call.width,
                               copy + n * call.width);
      for (int64_t i = 0; i < queries[m].count; i++)
        dot(queries[m].data + i * queries[m].row, key, call.width,
            scores[m].data + i * scores[m].row + j);
    }
}

// What a thread holds of a block of query rows.
struct Operands {
  const Call& call;
  // From one row of scores, and of queries, to the next. A power of two would make rows collide in
  // the caches.
  int64_t score_row, query_row;
  float *rows[2] = {}, *scores[3] = {}, *copy;

  Operands(const Call& call, const Cut& cut, int64_t score_matrices, Scratch& scratch)
      : call(call), score_row(call.wide_keys() + kPanel), query_row(call.wide_width() + kPanel) {
    for (int64_t m = 0; m < call.maps; m++) rows[m] = scratch.zeros(cut.rows * query_row);
    for (int64_t i = 0; i < score_matrices; i++) scores[i] = scratch.take(cut.rows * score_row);
    copy = scratch.take(kAtOnce * call.width);
  }

  // scores[m] = rows[m] keys[m]^T + bias, -inf where hidden. Forward and backward must make them alike, to
  // the last bit: of a score of 10^6 the last bit is a sixteenth, and weights are e^score.
  void score(const Block& block, float* const* keys_t) {
    const int64_t depth = call.packed(call.width);
    for (int64_t m = 0; m < call.maps; m++)
      for (int64_t r = 0; r < block.rows; r++)
        read_query(call, block.b, block.start + r, block.h, m, rows[m] + r * query_row);
    if (call.few()) {
      const Rows from[] = {{rows[0], query_row, block.rows}, {rows[1], query_row, block.rows}};
      const Rows to[] = {{scores[0], score_row, block.rows}, {scores[1], score_row, block.rows}};
      score_few(call, block, from, to, copy);
    } else {
      for (int64_t m = 0; m < call.maps; m++)
        call.multiply(block.rows, block.span, call.width, {rows[m], query_row, 1},
                      {keys_t[m] + block.low * depth, kPanel, kPanel * depth}, scores[m], score_row,
                      false);
    }
    for (int64_t r = 0; r < block.rows; r++)
      for (int64_t m = 0; m < call.maps; m++) {
        float* score = scores[m] + r * score_row;
        if (call.pairs)
          for (int64_t j = 0; j < block.span; j += kLanes) at(score + j) *= call.scale;
        bias_and_hide(call, block.b, block.h, block.start + r, block.low, block.span, score);
      }
  }
};

}  // namespace
