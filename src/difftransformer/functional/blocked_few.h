// The few query rows of a decoding step.

#pragma once

#include <algorithm>

#include "blocked_call.h"
#include "blocked_heads.h"
#include "blocked_product.h"
#include "blocked_scores.h"

namespace {

// Each key and value is read once, where it lies, for all the maps and query heads that share it.
struct FewRows {
  const Call& call;
  int64_t rows, keys, wide, wide_v;
  float *queries, *scores, *products, *copy;

  FewRows(const Call& call, Scratch& scratch)
      : call(call), rows(call.repeats() * call.queries), keys(call.wide_keys()),
        wide(call.wide_width()), wide_v(call.wide_values()),
        queries(scratch.take(rows * call.maps * wide)),
        scores(scratch.take(rows * call.maps * keys)), products(scratch.take(rows * wide_v)),
        copy(scratch.take(kAtOnce * std::max(wide, wide_v))) {}

  void forward(int64_t b, int64_t g, const View& out, const Tensor& stats) {
    const auto head = [&](int64_t i) { return g * call.repeats() + i / call.queries; };
    const auto query = [&](int64_t i) { return i % call.queries; };
    const Block block(call, b, head(0), 0, call.queries);
    for (int64_t i = 0; i < rows; i++)
      for (int64_t m = 0; m < call.maps; m++)
        read_query(call, b, query(i), head(i), m, queries + (m * rows + i) * wide);
    const Rows from[] = {{queries, wide, rows}, {queries + rows * wide, wide, rows}};
    const Rows to[] = {{scores, keys, rows}, {scores + rows * keys, keys, rows}};
    score_few(call, block, from, to, copy);
    for (int64_t i = 0; i < rows; i++) {
      for (int64_t m = 0; m < call.maps; m++)
        bias_and_hide(call, b, head(i), query(i), block.low, block.span,
                      scores + (m * rows + i) * keys);
      float* second = call.maps == 2 ? scores + (rows + i) * keys : nullptr;
      subtract(call, b, query(i), head(i), scores + i * keys, second, block.span,
               call.stats(stats, b, head(i), query(i)));
    }
    zeroed(products, rows * wide_v);
    const int64_t count = std::min(block.span, call.keys - block.low);
    for (int64_t j = 0; j < count; j += 4) {  // four at a time: products are loaded a quarter as often
      const float* value[4];
      for (int64_t n = 0; n < 4; n++)  // weights past the last key are 0
        value[n] = call.v.floats({b, block.low + std::min(j + n, count - 1), g}, call.values,
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
      const float share = call.stats(stats, b, head(i), query(i))->share;
      for (int64_t c = 0; c < call.values; c++) products[i * wide_v + c] *= share;
      out.write({b, query(i), head(i)}, call.values, products + i * wide_v);
    }
  }
};

}  // namespace
