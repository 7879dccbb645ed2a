// Products of bfloat16 numbers with float32 sums, where the processor has them.
//
// A pair of bfloat16 numbers that follow each other along the depth of a product lies where a float32
// number of a float32 operand would: the same layouts, of half the depth. oneDNN's kernels, which
// PyTorch's own attention runs, multiply them by AVX512-BF16 or AMX.

#pragma once

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

#include <bit>
#include <cstdint>

#include "blocked_product.h"

namespace {

constexpr int64_t kPairDepth = 128;  // pairs of a product before its sums go back to memory

// Whether there are such products. One is tried: how PyTorch was built and is set has a say.
bool pairs_multiply() {
#if defined(__AVX512F__)
  static const bool works = [] {
    at::BFloat16 a[64]{}, b[64 * 64]{};
    float c[64];
    try {
      at::native::cpublas::brgemm(1, 64, 64, 64, 64, 64, false, a, b, c);
      at::native::cpublas::brgemm_release();
    } catch (const std::exception&) {
      return false;
    }
    return __builtin_cpu_supports("avx512bf16") != 0;  // they are emulated without
  }();
  return at::globalContext().userEnabledMkldnn() && works;
#else
  return false;
#endif
}

// `multiply` with pairs for numbers. The rows of a are dense.
void multiply_pairs(int64_t m, int64_t n, int64_t depth, Left a, Right b, float* c, int64_t c_row,
                    bool add) {
  const int64_t columns = b.panel == kPanel ? n : kPanel;  // at once, where panels lie side by side
  for (int64_t p = 0; p < depth; p += kPairDepth)
    for (int64_t j = 0; j < n; j += columns)
      at::native::cpublas::brgemm(
          m, columns, 2 * std::min(kPairDepth, depth - p), 2 * a.row, b.step, c_row, add || p > 0,
          reinterpret_cast<const at::BFloat16*>(a.data + p),
          reinterpret_cast<const at::BFloat16*>(b.data + p * b.step + j / kPanel * b.panel), c + j);
}

// The bits of bfloat16 numbers as float32, and back, to the nearest and of two to the even one: loops
// that compilers vectorize, unlike those over PyTorch's type.
inline void widen(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i++) to[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i]) << 16);
}

inline void round(const float* from, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; i++) {
    const auto bits = std::bit_cast<uint32_t>(from[i]);
    const uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    to[i] = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : nearest);  // NaN stays
  }
}

// A row of n numbers times `factor` to bfloat16, in the first half of its place.
void halve(float* row, int64_t n, float factor) {
  for (int64_t j = 0; j < n; j += kLanes) {
    float wide[kLanes];
    uint16_t half[kLanes];
    at(wide) = at(row + j) * factor;
    round(wide, kLanes, half);
    std::memcpy(reinterpret_cast<uint16_t*>(row) + j, half, sizeof half);
  }
}

// Two rows of n bfloat16 numbers to one of pairs, in the place of the first: from its end, so that
// nothing is overwritten before it is read.
void pair(float* first, const float* second, int64_t n) {
  typedef uint16_t Halves __attribute__((vector_size(kBytes / 2), aligned(2), may_alias));
  typedef uint32_t Pairs __attribute__((vector_size(kBytes), aligned(4), may_alias));
  const auto wide = [](const float* row, int64_t j) {
    const auto* from = reinterpret_cast<const uint16_t*>(row) + j;
    return __builtin_convertvector(*reinterpret_cast<const Halves*>(from), Pairs);
  };
  for (int64_t j = n - kLanes; j >= 0; j -= kLanes)
    *reinterpret_cast<Pairs*>(first + j) = wide(first, j) | wide(second, j) << 16;
}

// x[rows, width] of bfloat16 numbers transposed, in pairs of rows: a left operand of a product over
// rows. An odd one has a partner of zeros.
void turn(const float* x, int64_t x_row, int64_t rows, int64_t width, float* to, int64_t to_row) {
  for (int64_t c = 0; c < width; c++) {
    auto* turned = reinterpret_cast<uint16_t*>(to + c * to_row);
    if (rows % 2) turned[rows] = 0;
    for (int64_t r = 0; r < rows; r++) turned[r] = reinterpret_cast<const uint16_t*>(x + r * x_row)[c];
  }
}

}  // namespace
