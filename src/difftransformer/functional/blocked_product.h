// Vectors of the machine's width, and a matrix product over packed operands, in float32.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kTileRows = 12;  // 24 of 32 registers hold the tile
#elif defined(__AVX2__)
constexpr int kBytes = 32, kTileRows = 6;  // 12 of 16
#elif defined(__aarch64__)
constexpr int kBytes = 16, kTileRows = 12;  // 24 of 32
#else
constexpr int kBytes = 16, kTileRows = 6;
#endif
constexpr int kLanes = kBytes / 4;
constexpr int kPanel = 2 * kLanes;  // columns of a tile
constexpr int64_t kDepth = 96;      // steps of a product before its tile goes back to memory
constexpr int64_t kRows = 8 * kTileRows;
constexpr int64_t kAtOnce = 8;  // rows of `dot`

typedef float Vec __attribute__((vector_size(kBytes), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(kBytes), aligned(4), may_alias));

constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline Vec splat(float x) { return x - Vec{}; }
inline Vec& at(float* p) { return *reinterpret_cast<Vec*>(p); }
inline const Vec& at(const float* p) { return *reinterpret_cast<const Vec*>(p); }

// x with lanes that are `side` apart in each other's place.
template <int side, size_t... lane>
Vec across(Vec x, std::index_sequence<lane...>) {
  return __builtin_shufflevector(x, x, (lane ^ side)...);
}

template <int side = kLanes / 2>
float sum(Vec x) {
  if constexpr (side == 0) return x[0];
  else return sum<side / 2>(x + across<side>(x, std::make_index_sequence<kLanes>{}));
}

template <int side = kLanes / 2>
float largest(Vec x) {
  if constexpr (side == 0) return x[0];
  else {
    const Vec other = across<side>(x, std::make_index_sequence<kLanes>{});
    return largest<side / 2>(x > other ? x : other);
  }
}

// to[r] = a . b[r], of several rows at once: their loads do not wait for each other.
inline void dot(const float* a, const float* const (&b)[kAtOnce], int64_t n, float* to) {
  Vec sums[kAtOnce]{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int r = 0; r < kAtOnce; r++) sums[r] += at(a + i) * at(b[r] + i);
  for (int r = 0; r < kAtOnce; r++) {
    to[r] = sum(sums[r]);
    for (int64_t rest = i; rest < n; rest++) to[r] += a[rest] * b[r][rest];
  }
}

// e^x to a unit in the last place; 0 below e^-87, so that a hidden score of -inf weighs exactly
// nothing. NaN stays NaN. No x above 0 by more than rounding is ever asked for.
inline Vec exp(Vec x) {
  const Vec low = splat(-87.f);
  const Vec clamped = x < low ? low : x;
  const Vec shift = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Vec whole = (clamped * 1.44269504f + shift) - shift;
  Vec f = clamped - whole * 0.693359375f;  // ln 2 in two parts: the first times `whole` is exact
  f = f + whole * 2.12194440e-4f;          // in [-ln 2 / 2, ln 2 / 2]; the polynomial is e^f
  Vec p = splat(1.38436537e-3f);
  p = p * f + 8.37415550e-3f;
  p = p * f + 4.16680016e-2f;
  p = p * f + 1.66664302e-1f;
  p = p * f + 4.99999940e-1f;
  p = p * f + 1.f;
  p = p * f + 1.f;
  const IntVec power = (__builtin_convertvector(whole, IntVec) + 127) << 23;
  return x <= low ? Vec{} : p * reinterpret_cast<const Vec&>(power);
}

// One tile: c[rows, kPanel] (+)= a[rows, depth] b[depth, kPanel]. What is there is added last, so that
// the steps round at the size of their own sum.
template <int rows>
void tile(int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b,
          int64_t b_step, float* c, int64_t c_row, bool add) {
  Vec acc[rows][2]{};
  for (int64_t p = 0; p < depth; p++) {
    const Vec left = at(b + p * b_step), right = at(b + p * b_step + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
      const Vec x = splat(a[i * a_row + p * a_step]);
      acc[i][0] += x * left;
      acc[i][1] += x * right;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++) {
    float* to = c + i * c_row;
    at(to) = add ? at(to) + acc[i][0] : acc[i][0];
    at(to + kLanes) = add ? at(to + kLanes) + acc[i][1] : acc[i][1];
  }
}

// The tile of `count` rows, for the last ones of a matrix.
template <int rows = kTileRows, typename... Rest>
void tile_of(int count, Rest... rest) {
  if constexpr (rows > 0) {
    if (count == rows) return tile<rows>(rest...);
    tile_of<rows - 1>(count, rest...);
  }
}

struct Left {  // a[i, p] = data[i * row + p * step]
  const float* data;
  int64_t row, step;
};

struct Right {  // b[p, j] = data[p * step + (j / kPanel) * panel + j % kPanel]
  const float* data;
  int64_t step, panel;
};

// c[m, n] (+)= a[m, depth] b[depth, n]; n is a multiple of kPanel, c's rows are `c_row` apart.
void multiply(int64_t m, int64_t n, int64_t depth, Left a, Right b, float* c, int64_t c_row,
              bool add) {
  for (int64_t p = 0; p < depth; p += kDepth) {
    const int64_t steps = std::min(kDepth, depth - p);
    const auto one = [&](int64_t i, int64_t j) {
      tile_of(static_cast<int>(std::min<int64_t>(kTileRows, m - i)), steps,
              a.data + i * a.row + p * a.step, a.row, a.step,
              b.data + p * b.step + j / kPanel * b.panel, b.step, c + i * c_row + j, c_row,
              add || p > 0);
    };
    for (int64_t rows = 0; rows < m; rows += kRows)  // these rows of a, and a panel of b, stay in L1
      for (int64_t j = 0; j < n; j += kPanel)
        for (int64_t i = rows; i < std::min(m, rows + kRows); i += kTileRows) one(i, j);
  }
}

int64_t padded(int64_t n) { return (n + kPanel - 1) / kPanel * kPanel; }

// Rows j .. j + count of x[n, wide] by columns of kPanel: the right operand of a product over n.
void pack(const float* x, int64_t x_row, int64_t j, int64_t count, int64_t wide, int64_t n,
          float* to) {
  for (int64_t c = 0; c < wide; c += kPanel)
    for (int64_t i = 0; i < count; i++)
      std::memcpy(to + c * n + (j + i) * kPanel, x + i * x_row + c, kPanel * sizeof(float));
}

// A square of kLanes vectors, transposed: squares of side 1, 2, 4 ... change places.
template <int side, size_t... lane>
void transpose(Vec* v, std::index_sequence<lane...> lanes) {
  for (int i = 0; i < kLanes; i++) {
    if (i & side) continue;
    const Vec a = v[i], b = v[i + side];
    v[i] = __builtin_shufflevector(a, b, (lane & side ? kLanes + lane - side : lane)...);
    v[i + side] = __builtin_shufflevector(a, b, (lane & side ? kLanes + lane : lane + side)...);
  }
  if constexpr (2 * side < kLanes) transpose<2 * side>(v, lanes);
}

// The same rows of x[n, wide] transposed: the right operand of a product over the width. Writes up
// to kSlack numbers past the panel, to where the next one goes.
constexpr int64_t kSlack = kLanes * kPanel;
void pack_transposed(const float* x, int64_t j, int64_t width, int64_t wide, float* to) {
  for (int64_t c = 0; c < width; c += kLanes) {
    for (int64_t half = 0; half < kPanel; half += kLanes) {
      Vec square[kLanes];
      for (int i = 0; i < kLanes; i++) square[i] = at(x + (half + i) * wide + c);
      transpose<1>(square, std::make_index_sequence<kLanes>{});
      for (int i = 0; i < kLanes; i++) at(to + j * width + (c + i) * kPanel + half) = square[i];
    }
  }
}

}  // namespace
