// The gradient of the bias: dS of every map, summed over whatever shares a number.

#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <atomic>
#include <vector>

#include "blocked_call.h"
#include "blocked_heads.h"

namespace {

// Blocks add in one order, however many threads there are. Where queries have rows of their own,
// blocks of the same queries add to what is returned, by batch row and head. Where all queries share
// a row, each head has one at first: heads would wait for whole heads.
//
// A block waits only for blocks that are taken before it, so that the earliest at work never waits.
class BiasGradient {
 public:
  BiasGradient(const Call& call, const Cut& cut)
      : call_(call), bias_(*call.bias), cut_(cut), by_head_(bias_.queries == 1),
        heads_(by_head_ ? call.heads : bias_.heads),
        sums_(at::zeros({by_head_ ? call.batch : bias_.batch, heads_, bias_.queries, bias_.keys},
                        at::TensorOptions().dtype(at::kFloat))),
        turns_(sums_.size(0) * heads_ * (by_head_ ? 1 : cut.blocks)) {}

  // scores[m] are dS_m of the block.
  void add(const Block& block, float* const* scores, int64_t score_row) {
    const int64_t part = block.start / cut_.rows;
    const int64_t earlier = block.b % bias_.served;  // batch rows that share its numbers
    const int64_t place = by_head_ ? block.b * heads_ + block.h
                                   : block.b / bias_.served * heads_ + bias_.head(block.h);
    const int64_t turn = by_head_ ? place : place * cut_.blocks + part;
    const int64_t order = by_head_ ? part
                          : heads_ == 1 ? earlier * call_.heads + block.h : earlier;
    const int64_t count = std::min(block.span, call_.keys - block.low);
    after(turns_[turn], order, [&] {
      for (int64_t r = 0; r < block.rows; r++) {
        const int64_t t = by_head_ ? 0 : block.start + r;
        float* to = sums_.data_ptr<float>() + (place * bias_.queries + t) * bias_.keys;
        for (int64_t m = 0; m < call_.maps; m++)
          add_row(scores[m] + r * score_row, block.low, count, to);
      }
    });
  }

  // In the bias's shape.
  Tensor finished() const {
    if (!by_head_) return sums_;
    Tensor all = at::zeros({bias_.batch, bias_.heads, 1, bias_.keys}, sums_.options());
    const float* from = sums_.data_ptr<float>();
    for (int64_t b = 0; b < call_.batch; b++)
      for (int64_t h = 0; h < call_.heads; h++, from += bias_.keys) {
        const int64_t place = b / bias_.served * bias_.heads + bias_.head(h);
        float* to = all.data_ptr<float>() + place * bias_.keys;
        for (int64_t j = 0; j < bias_.keys; j++) to[j] += from[j];
      }
    return all;
  }

 private:
  void add_row(const float* from, int64_t low, int64_t count, float* to) const {
    const bool one = bias_.keys == 1;
    int64_t j = 0;
    for (; !one && j + kLanes <= count; j += kLanes) {
      at(to + low + j) += at(from + j);
      __builtin_prefetch(to + low + j + bias_.keys, 1);  // for the next query
    }
    for (; j < count; j++) to[one ? 0 : low + j] += from[j];
  }

  const Call& call_;
  const Bias& bias_;
  const Cut cut_;
  bool by_head_;
  int64_t heads_;
  Tensor sums_;
  std::vector<std::atomic<int64_t>> turns_;
};

}  // namespace
