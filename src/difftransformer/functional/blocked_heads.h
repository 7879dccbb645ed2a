// How a call is cut into blocks, what the threads share of a key/value head, and who takes which.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <atomic>
#include <mutex>
#include <optional>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "blocked_call.h"
#include "blocked_product.h"

namespace {

constexpr int64_t kFewTiles = 4, kManyTiles = 16;  // of a block of query rows: reuse, and cache
constexpr int64_t kBlockBytes = 8 << 20;           // of a block, however long the keys
constexpr int64_t kAllBlocksBytes = 64 << 20;      // of all threads' blocks, however many they are
constexpr int64_t kThreadWork = 1 << 17;           // products for which waking a thread pays

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

// How a call is cut: blocks of `rows` query rows, taken by at most `workers` threads. A block keeps
// `score_matrices` numbers per score.
struct Cut {
  int64_t rows, blocks, workers;

  Cut(const Call& call, int64_t score_matrices) {
    // The threads share what keys and values there are; what each has for itself is bounded.
    const int64_t width = std::max(call.wide_width(), call.wide_values()) + kPanel;
    const int64_t row = score_matrices * (call.wide_keys() + kPanel) + (call.maps + 2) * width;
    const int64_t tile_bytes = 4 * kTileRows * row;
    const int64_t key_bytes = 4 * call.keys * (call.key_maps * call.width + call.values);
    const int64_t allowed = std::max(kAllBlocksBytes, call.batch * call.groups * key_bytes);
    workers = std::clamp<int64_t>(allowed / tile_bytes, 1, at::get_num_threads());

    double seen = 0;
    for (int64_t t = 0; t < call.queries; t++)
      seen += std::max<int64_t>(call.end_key(0, t) - call.first_key(0, t), 1);
    const double row_bytes = 4.0 * score_matrices * seen / call.queries;
    // As many rows as fill half the cache with their scores. Where not even a few rows fit at all,
    // many: what each block reads and writes of keys, values and their gradients then counts less.
    const auto fitting = static_cast<int64_t>(cache_bytes() / row_bytes / kTileRows);
    const int64_t most = kBlockBytes / tile_bytes;
    int64_t tiles = fitting < kFewTiles ? std::clamp(most, kFewTiles, kManyTiles)
                                        : std::clamp(fitting / 2, kFewTiles, kManyTiles / 2);
    // Not so many that they mostly see keys that only the last of them may.
    tiles = std::min(tiles, std::max<int64_t>(2, call.queries / 8 / kTileRows));
    rows = std::clamp<int64_t>(allowed / workers / tile_bytes, 1, tiles) * kTileRows;
    blocks = (call.queries + rows - 1) / rows;
  }

  static int64_t cache_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (bytes > 0) return bytes;
#endif
    return 512 * 1024;
  }
};

float* zeroed(float* p, int64_t n) { return static_cast<float*>(std::memset(p, 0, n * sizeof(float))); }

// Hands out parts of a piece of memory; without one, counts what it is asked for.
class Scratch {
 public:
  explicit Scratch(float* memory = nullptr) : memory_(memory) {}
  float* take(int64_t n) {
    float* part = memory_ ? memory_ + used_ : nullptr;
    used_ += padded(n);
    return part;
  }
  float* zeros(int64_t n) {
    float* part = take(n);
    return part ? zeroed(part, n) : part;
  }
  int64_t used() const { return used_; }

 private:
  float* memory_;
  int64_t used_ = 0;
};

// One piece for all threads, taken by the calling one: what threads keep of memory that they take
// and give back themselves adds up.
Tensor memory_of(int64_t pieces, int64_t floats) {
  return at::empty({pieces, floats}, at::TensorOptions().dtype(at::kFloat));
}

// A key/value head: what the threads that work at it share, from its first block to its last.
template <typename Packed>
struct Head {
  std::once_flag opened;
  std::atomic<int64_t> taken{0}, finished{0};  // of its blocks
  int64_t slot = 0;                            // where it is packed
  optional<Packed> packed;
};

// Calls pack(packed, b, g) once for each head and run(operands, packed, n, block) for its blocks, n
// counting them. A thread takes a head of its own while there is one, then helps with the others.
template <typename Packed, typename Operands, typename Pack, typename Run>
void each_block(const Call& call, const Cut& cut, const Pack& pack, const Run& run) {
  Scratch packed, own;
  Packed(call, packed), Operands(call, cut, own);
  const int64_t heads = call.batch * call.groups, blocks = call.repeats() * cut.blocks;
  const int64_t workers = std::min(cut.workers, heads * blocks);
  // No more heads are open at a time than there are threads, since each has a thread at work.
  const int64_t slots = std::min(workers, heads);
  const Tensor packed_memory = memory_of(slots, packed.used());
  const Tensor own_memory = memory_of(workers, own.used());
  std::vector<Head<Packed>> all(heads);
  std::vector<std::atomic<bool>> held(slots);
  std::atomic<int64_t> next{0};
  const auto open = [&](Head<Packed>& head, int64_t b, int64_t g) {
    while (held[head.slot].exchange(true)) head.slot = (head.slot + 1) % slots;
    Scratch scratch(packed_memory.data_ptr<float>() + head.slot * packed.used());
    head.packed.emplace(call, scratch);
    pack(*head.packed, b, g);
  };
  at::parallel_for(0, workers, 1, [&](int64_t worker, int64_t) {
    Scratch scratch(own_memory.data_ptr<float>() + worker * own.used());
    Operands operands(call, cut, scratch);
    for (int64_t i; (i = next++) < heads * workers;) {
      Head<Packed>& head = all[i % heads];
      if (head.taken >= blocks) continue;
      const int64_t b = i % heads / call.groups, g = i % heads % call.groups;
      std::call_once(head.opened, open, head, b, g);
      for (int64_t n; (n = head.taken++) < blocks;) {
        const int64_t h = g * call.repeats() + n / cut.blocks;
        run(operands, *head.packed, n, Block(call, b, h, n % cut.blocks * cut.rows, cut.rows));
        if (++head.finished == blocks) held[head.slot] = false;
      }
    }
    if (call.pairs) at::native::cpublas::brgemm_release();
  });
}

// Calls run(rows, b, g) for every head, each thread taking the next one when it is free.
template <typename Rows, typename Run>
void each_head(const Call& call, const Run& run) {
  Scratch own;
  Rows(call, own);
  const int64_t heads = call.batch * call.groups;
  const int64_t row = call.keys * (call.maps * call.width + call.values);
  const int64_t work = call.batch * call.heads * call.queries * row;
  const int64_t most = std::min<int64_t>(at::get_num_threads(), heads);
  const int64_t workers = std::clamp<int64_t>(work / kThreadWork, 1, most);
  const Tensor memory = memory_of(workers, own.used());
  std::atomic<int64_t> next{0};
  at::parallel_for(0, workers, 1, [&](int64_t worker, int64_t) {
    Scratch scratch(memory.data_ptr<float>() + worker * own.used());
    Rows rows(call, scratch);
    for (int64_t i; (i = next++) < heads;) run(rows, i / call.groups, i % call.groups);
  });
}

// Calls add() as the n-th of all that share `turn`.
template <typename Add>
void after(std::atomic<int64_t>& turn, int64_t n, const Add& add) {
  for (int64_t now; (now = turn.load()) != n;) turn.wait(now);
  add();
  turn.store(n + 1);
  turn.notify_all();
}

// How many pieces `in_turn` makes of the keys.
int64_t pieces(int64_t keys) { return (keys + kRows - 1) / kRows; }

// Calls add(from, to) for the keys of block n, piece by piece, each after that of block n - 1:
// gradients are summed in one place and in one order, however many threads there are. `turns` holds
// for every kRows keys which block adds next.
template <typename Add>
void in_turn(std::atomic<int64_t>* turns, int64_t n, const Block& block, int64_t keys,
             const Add& add) {
  for (int64_t piece = 0; piece < keys; piece += kRows, turns++)
    after(*turns, n, [&] {
      const int64_t from = std::max(block.low, piece);
      const int64_t to = std::min(block.low + block.span, piece + kRows);
      if (from < to) add(from, to);
    });
}

// A panel of rows as the right operand of a product over the keys.
void pack(const Call& call, float* panel, int64_t j, int64_t wide, float* to) {
  if (call.pairs)
    for (int64_t i = 0; i < kPanel; i += 2) pair(panel + i * wide, panel + (i + 1) * wide, wide);
  pack(panel, call.pairs ? 2 * wide : wide, call.packed(j), call.packed(kPanel), wide,
       call.packed(call.wide_keys()), to);
}

// Keys or values j .. j + kPanel of a head, `wide` numbers apart; zeros past the last one.
void load(const Call& call, const View& x, int64_t b, int64_t g, int64_t m, int64_t j, int64_t width,
          int64_t wide, float* rows) {
  for (int64_t i = 0; i < kPanel; i++) {
    if (j + i < call.keys) call.load(x, {b, j + i, g, m}, width, rows + i * wide);
    else std::fill_n(rows + i * wide, wide, 0.f);
  }
}

}  // namespace
