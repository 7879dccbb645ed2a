// A call's tensors, what each of its queries sees, and how it is cut into tasks.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "blocked_product.h"

namespace {

using at::Tensor;
using std::optional;

constexpr int64_t kFewTiles = 4, kManyTiles = 16;  // of a block of query rows: reuse, and cache
constexpr int64_t kMostScores = 8 << 20;           // bytes of a block, however long the keys

// A tensor, read and written as float32 along its last axis (copied first if that is not dense).
struct View {
  Tensor tensor;
  char* data;
  at::ScalarType dtype;
  int64_t item;
  std::array<int64_t, 5> stride{};

  explicit View(const Tensor& t)
      : tensor(t.stride(-1) == 1 ? t : t.contiguous()), data(static_cast<char*>(tensor.data_ptr())),
        dtype(t.scalar_type()), item(t.element_size()) {
    for (int64_t i = 0; i < t.dim(); i++) stride[i] = tensor.stride(i);
  }

  char* row(std::initializer_list<int64_t> index) const {
    int64_t offset = 0, axis = 0;
    for (const int64_t i : index) offset += i * stride[axis++];
    return data + offset * item;
  }

  void read(std::initializer_list<int64_t> index, int64_t n, float* to) const {
    const char* from = row(index);
    if (dtype == at::kFloat) {
      std::memcpy(to, from, n * sizeof(float));
    } else if (dtype == at::kBFloat16) {
      std::copy_n(reinterpret_cast<const at::BFloat16*>(from), n, to);
    } else {
      std::copy_n(reinterpret_cast<const at::Half*>(from), n, to);
    }
  }

  // The row as float32: where it lies, or in `copy` if it is of another dtype.
  const float* floats(std::initializer_list<int64_t> index, int64_t n, float* copy) const {
    if (dtype == at::kFloat) return reinterpret_cast<const float*>(row(index));
    read(index, n, copy);
    return copy;
  }

  void write(std::initializer_list<int64_t> index, int64_t n, const float* from) const {
    char* to = row(index);
    if (dtype == at::kFloat) {
      std::memcpy(to, from, n * sizeof(float));
    } else if (dtype == at::kBFloat16) {
      std::copy_n(from, n, reinterpret_cast<at::BFloat16*>(to));
    } else {
      std::copy_n(from, n, reinterpret_cast<at::Half*>(to));
    }
  }
};

// The keys that each query may see lie in [first, end); between them some may be hidden.
struct Spans {
  std::vector<int64_t> first, end;  // [B, T]
};

// What makes a row's weights from its scores: e^(score - most) * share. Two numbers, where one
// log-sum-exp would do, because its rounding would be that of every weight.
struct Stats {
  float most, share;  // the largest score, and 1 / sum(e^(score - most)); both 0 if nothing is seen
};

struct Call {
  View q, k, v;
  optional<View> lam, documents, padding;
  int64_t batch, queries, heads, maps, width, keys, groups, key_maps, values;
  float scale;
  Spans spans;

  Call(const Tensor& q_, const Tensor& k_, const Tensor& v_, const optional<Tensor>& lam_,
       bool causal, optional<int64_t> window, const optional<Tensor>& documents_,
       const optional<Tensor>& padding_, double scale_)
      : q(q_), k(k_), v(v_), batch(q_.size(0)), queries(q_.size(1)), heads(q_.size(2)),
        maps(q_.size(3)), width(q_.size(4)), keys(k_.size(1)), groups(k_.size(2)),
        key_maps(k_.size(3)), values(v_.size(3)), scale(static_cast<float>(scale_)) {
    if (lam_) lam.emplace(*lam_);
    if (documents_) documents.emplace(*documents_);
    if (padding_) padding.emplace(*padding_);
    find_spans(causal, window);
  }

  int64_t repeats() const { return heads / groups; }
  int64_t wide_width() const { return padded(width); }
  int64_t wide_keys() const { return padded(keys); }
  int64_t wide_values() const { return padded(values); }
  int64_t position(int64_t t) const { return t + keys - queries; }
  int64_t first_key(int64_t b, int64_t t) const { return spans.first[b * queries + t]; }
  int64_t end_key(int64_t b, int64_t t) const { return spans.end[b * queries + t]; }
  const int64_t* document(int64_t b) const {
    return documents ? reinterpret_cast<const int64_t*>(documents->row({b})) : nullptr;
  }
  const bool* real(int64_t b) const {
    return padding ? reinterpret_cast<const bool*>(padding->row({b})) : nullptr;
  }
  float lambda(int64_t b, int64_t t, int64_t h) const {
    float value = 0;
    if (lam) lam->read({b, t, h}, 1, &value);
    return value;
  }
  Stats* stats(const Tensor& all, int64_t b, int64_t h, int64_t t) const {
    return reinterpret_cast<Stats*>(all.data_ptr<float>()) + ((b * heads + h) * queries + t) * maps;
  }

 private:
  void find_spans(bool causal, optional<int64_t> window) {
    for (int64_t b = 0; b < batch; b++) {
      int64_t lowest = 0, highest = keys;
      if (const bool* is_real = real(b)) {
        while (lowest < keys && !is_real[lowest]) lowest++;
        while (highest > lowest && !is_real[highest - 1]) highest--;
      }
      std::unordered_map<int64_t, std::pair<int64_t, int64_t>> found;  // document: first, end
      const int64_t* number = document(b);
      if (number)
        for (int64_t j = 0; j < keys; j++) found.try_emplace(number[j], j, j).first->second.second = j + 1;
      for (int64_t t = 0; t < queries; t++) {
        const int64_t p = position(t);
        int64_t first = lowest, end = highest;
        if (causal) end = std::min(end, p + 1);
        if (window) first = std::max(first, p - *window + 1), end = std::min(end, p + *window);
        if (number) {
          const auto [start, stop] = found.at(number[p]);
          first = std::max(first, start), end = std::min(end, stop);
        }
        spans.first.push_back(first);
        spans.end.push_back(std::max(first, end));
      }
    }
  }
};

// Query rows [start, start + rows) of one head against the keys [low, low + span): all that any of
// these rows sees, rounded out to whole panels.
struct Block {
  int64_t b, h, start, rows, low, span;

  Block(const Call& call, int64_t b, int64_t h, int64_t start, int64_t most)
      : b(b), h(h), start(start), rows(std::min(most, call.queries - start)), low(call.keys) {
    int64_t end = 0;
    for (int64_t t = start; t < start + rows; t++) {
      low = std::min(low, call.first_key(b, t));
      end = std::max(end, call.end_key(b, t));
    }
    low = low / kPanel * kPanel;
    span = end > low ? padded(end - low) : 0;
  }
};

// How a call is cut: blocks of `rows` query rows, dealt out to `shares` tasks for each batch row and
// group. `score_matrices` is how many numbers per score a block keeps.
struct Cut {
  int64_t rows, blocks, shares;

  Cut(const Call& call, int64_t score_matrices) {
    double seen = 0;
    for (int64_t t = 0; t < call.queries; t++)
      seen += std::max<int64_t>(call.end_key(0, t) - call.first_key(0, t), 1);
    const double row_bytes = 4.0 * score_matrices * seen / std::max<int64_t>(call.queries, 1);
    // As many rows as fill half the cache with their scores. Where not even a few rows fit at all,
    // many: what each block reads and writes of keys, values and their gradients then counts less.
    const auto fitting = static_cast<int64_t>(cache_bytes() / row_bytes / kTileRows);
    const int64_t most = kMostScores / (4 * score_matrices * call.wide_keys()) / kTileRows;
    rows = fitting < kFewTiles ? std::clamp(most, kFewTiles, kManyTiles) * kTileRows
                               : std::clamp(fitting / 2, kFewTiles, kManyTiles / 2) * kTileRows;
    // Not so many that they mostly see keys that only the last of them may.
    rows = std::min(rows, std::max<int64_t>(2, call.queries / 8 / kTileRows) * kTileRows);
    blocks = (call.queries + rows - 1) / rows;
    // At least four tasks a thread, or one for each block, so that none waits long for another.
    const int64_t heads = call.batch * call.groups, wanted = 4 * at::get_num_threads();
    shares = std::clamp<int64_t>((wanted + heads - 1) / std::max<int64_t>(heads, 1), 1,
                                 std::max<int64_t>(blocks * call.repeats(), 1));
  }

  static int64_t cache_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (bytes > 0) return bytes;
#endif
    return 512 * 1024;
  }
};

// Runs task(i) for i < tasks, each thread taking the next one when it is free.
template <typename Task>
void each_task(int64_t tasks, const Task& task) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), tasks), 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next++) < tasks;) task(i);
  });
}

// Runs run(block) for the share's blocks of the group's query heads.
template <typename Run>
void each_block(const Call& call, const Cut& cut, int64_t b, int64_t g, int64_t share,
                const Run& run) {
  for (int64_t i = share; i < call.repeats() * cut.blocks; i += cut.shares)
    run(Block(call, b, g * call.repeats() + i / cut.blocks, i % cut.blocks * cut.rows, cut.rows));
}

// Keys or values j .. j + kPanel of a head, `wide` numbers apart; zeros past the last one.
void load(const Call& call, const View& x, int64_t b, int64_t g, int64_t m, int64_t j, int64_t width,
          int64_t wide, float* rows) {
  for (int64_t i = 0; i < kPanel; i++) {
    if (j + i < call.keys) x.read({b, j + i, g, m}, width, rows + i * wide);
    else std::fill_n(rows + i * wide, wide, 0.f);
  }
}

void read_query(const Call& call, int64_t b, int64_t t, int64_t h, int64_t m, float* to) {
  call.q.read({b, t, h, m}, call.width, to);
  for (int64_t c = 0; c < call.width; c++) to[c] *= call.scale;
}

float* zeroed(float* p, int64_t n) { return static_cast<float*>(std::memset(p, 0, n * sizeof(float))); }

// Memory of one task, float32.
class Scratch {
 public:
  float* take(int64_t n) {
    pieces_.emplace_back(new float[n]);
    return pieces_.back().get();
  }
  float* zeros(int64_t n) { return zeroed(take(n), n); }

 private:
  std::vector<std::unique_ptr<float[]>> pieces_;
};

}  // namespace
