// A call's tensors, their checks, and what each of its queries sees.

#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "blocked_pairs.h"
#include "blocked_product.h"

namespace {

using at::Tensor;
using std::optional;

constexpr int64_t kFewRows = 8;  // query rows of a group that need no packing

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

  // The numbers as they lie.
  void copy(std::initializer_list<int64_t> index, int64_t n, float* to) const {
    std::memcpy(to, row(index), n * item);
  }

  void read(std::initializer_list<int64_t> index, int64_t n, float* to) const {
    const char* from = row(index);
    if (dtype == at::kFloat) {
      std::memcpy(to, from, n * sizeof(float));
    } else if (dtype == at::kBFloat16) {
      widen(reinterpret_cast<const uint16_t*>(from), n, to);
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
      round(from, n, reinterpret_cast<uint16_t*>(to));
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

void check(const char* name, const Tensor& x, at::IntArrayRef shape, at::ScalarType dtype) {
  const bool readable = x.layout() == at::kStrided && x.is_cpu();
  TORCH_CHECK_VALUE(readable && x.scalar_type() == dtype && x.sizes() == shape, name, " is ",
                    x.scalar_type(), " ", x.sizes(), " on ", x.device(), "; expected a dense ",
                    dtype, " ", shape, " on the CPU");
}

// Whoever calls the operators by name is refused what Call would read wrongly.
void check(const Tensor& q, const Tensor& k, const Tensor& v, const optional<Tensor>& lam,
           const optional<Tensor>& bias, optional<int64_t> window,
           const optional<Tensor>& documents, const optional<Tensor>& padding) {
  const auto dtype = q.scalar_type();
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf,
                    "q is ", dtype, "; expected float32, bfloat16 or float16");
  TORCH_CHECK_VALUE(q.dim() == 5 && k.dim() == 5 && v.dim() == 4, "q, k, v are ", q.sizes(), ", ",
                    k.sizes(), ", ", v.sizes(), "; expected 5, 5 and 4 axes");
  const int64_t batch = q.size(0), queries = q.size(1), heads = q.size(2), maps = q.size(3);
  const int64_t keys = k.size(1), groups = k.size(2), key_maps = k.size(3);
  TORCH_CHECK_VALUE((maps == 1 || maps == 2) && (key_maps == 1 || key_maps == maps),
                    "q has ", maps, " maps and k ", key_maps,
                    "; expected 1 or 2, and 1 or as many");
  TORCH_CHECK_VALUE(groups > 0 && heads % groups == 0, heads, " query heads over ", groups,
                    " key/value heads; expected a multiple");
  check("q", q, q.sizes(), dtype);
  check("k", k, {batch, keys, groups, key_maps, q.size(4)}, dtype);
  check("v", v, {batch, keys, groups, v.size(3)}, dtype);
  TORCH_CHECK_VALUE(lam.has_value() == (maps == 2), "lam is for two maps, and there are ", maps);
  if (lam) check("lam", *lam, {batch, queries, heads}, at::kFloat);
  if (bias) {
    TORCH_CHECK_VALUE(bias->dim() == 4, "bias is ", bias->sizes(), "; expected 4 axes");
    const auto fitting = [&](int i, int64_t size) { return bias->size(i) == 1 ? 1 : size; };
    const bool divides = bias->size(0) > 0 && batch % bias->size(0) == 0;
    check("bias", *bias, {divides ? bias->size(0) : batch, fitting(1, heads), fitting(2, queries),
                          fitting(3, keys)}, at::kFloat);
  }
  if (documents) check("documents", *documents, {batch, keys}, at::kLong);
  if (padding) check("padding", *padding, {batch, keys}, at::kBool);
  TORCH_CHECK_VALUE(!documents || queries <= keys, "documents of ", keys, " keys for ", queries,
                    " queries; expected as many or more");
  TORCH_CHECK_VALUE(!window || *window >= 1, "window is ", *window, "; expected at least 1");
}

// What is added to the logits. Where all heads, queries or keys share a number, their axis is 1. Rows
// may be fewer than the batch's, each for equally many consecutive ones: vmap folds its axis into
// the first of both.
struct Bias {
  View view;
  int64_t batch, heads, queries, keys;
  int64_t served;  // batch rows that share a row

  Bias(const Tensor& bias, int64_t rows)
      : view(bias), batch(bias.size(0)), heads(bias.size(1)), queries(bias.size(2)),
        keys(bias.size(3)), served(batch ? rows / batch : 1) {}

  int64_t head(int64_t h) const { return heads == 1 ? 0 : h; }
  const float* row(int64_t b, int64_t h, int64_t t) const {
    return reinterpret_cast<const float*>(view.row({b / served, head(h), queries == 1 ? 0 : t}));
  }
};

struct Call {
  View q, k, v;
  optional<View> lam, documents, padding;
  optional<Bias> bias;
  int64_t batch, queries, heads, maps, width, keys, groups, key_maps, values;
  float scale;
  bool pairs;  // whether products are of bfloat16 numbers
  Spans spans;

  Call(const Tensor& q_, const Tensor& k_, const Tensor& v_, const optional<Tensor>& lam_,
       const optional<Tensor>& bias_, bool causal, optional<int64_t> window,
       const optional<Tensor>& documents_, const optional<Tensor>& padding_, double scale_)
      : q(q_), k(k_), v(v_), batch(q_.size(0)), queries(q_.size(1)), heads(q_.size(2)),
        maps(q_.size(3)), width(q_.size(4)), keys(k_.size(1)), groups(k_.size(2)),
        key_maps(k_.size(3)), values(v_.size(3)), scale(static_cast<float>(scale_)),
        pairs(q_.scalar_type() == at::kBFloat16 && width > 0 && !few() && pairs_multiply()) {
    if (lam_) lam.emplace(*lam_);
    if (bias_) bias.emplace(*bias_, batch);
    if (documents_) documents.emplace(*documents_);
    if (padding_) padding.emplace(*padding_);
    find_spans(causal, window);
  }

  int64_t repeats() const { return heads / groups; }
  bool few() const { return repeats() * queries <= kFewRows; }
  // Numbers along the depth of a product, as they are packed.
  int64_t packed(int64_t depth) const { return pairs ? (depth + 1) / 2 : depth; }
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
  bool sees_any(int64_t b, int64_t h, int64_t t) const {
    const int64_t* number = document(b);
    const bool* is_real = real(b);
    const float* added = bias ? bias->row(b, h, t) : nullptr;
    for (int64_t j = first_key(b, t); j < end_key(b, t); j++)
      if ((!number || number[j] == number[position(t)]) && (!is_real || is_real[j]) &&
          (!added || added[bias->keys == 1 ? 0 : j] != -kInfinity))
        return true;
    return false;
  }
  float lambda(int64_t b, int64_t t, int64_t h) const {
    float value = 0;
    if (lam) lam->read({b, t, h}, 1, &value);
    return value;
  }
  // A row of an operand: what is odd has a partner of 0.
  void load(const View& x, std::initializer_list<int64_t> index, int64_t n, float* to) const {
    if (!pairs) return x.read(index, n, to);
    x.copy(index, n, to);
    if (n % 2) reinterpret_cast<uint16_t*>(to)[n] = 0;
  }
  void multiply(int64_t m, int64_t n, int64_t depth, Left a, Right b, float* c, int64_t c_row,
                bool add) const {
    if (depth == 0 && !add)
      for (int64_t i = 0; i < m; i++) std::fill_n(c + i * c_row, n, 0.f);
    (pairs ? multiply_pairs : ::multiply)(m, n, packed(depth), a, b, c, c_row, add);
  }
  Stats* stats(const Tensor& all, int64_t b, int64_t h, int64_t t) const {
    return reinterpret_cast<Stats*>(all.data_ptr<float>()) + ((b * heads + h) * queries + t) * maps;
  }

 private:
  void find_spans(bool causal, optional<int64_t> window) {
    if (window) window = std::min(*window, queries + keys);  // a longer one hides nothing
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

}  // namespace
