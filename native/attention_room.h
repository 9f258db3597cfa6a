// How attention cuts its work, and what each thread needs for it.
#pragma once

#include <stdint.h>

namespace ellm {

// Tokens in a tile and in a split; queries times their heads in a block; numbers in a head.
constexpr int64_t kTile = 64, kSplit = 1024, kBlock = 48, kWidest = 256;
// Columns of a matrix are padded to so many.
constexpr int64_t kNarrowest = 16;

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Bytes, all for float32: whoever multiplies bfloat16 needs half of some.
struct AttentionRoom {
  int64_t kv_heads, group, width;

  int64_t rows() const { return kv_heads * group > kBlock ? kv_heads * group : kBlock; }
  int64_t padded() const { return round_up(width, kNarrowest); }
  int64_t queries() const { return round_up(rows() * width * 4, 64); }
  int64_t tile() const { return kTile * padded() * 4; }
  int64_t scores() const { return rows() * kTile * 4; }
  int64_t kernel() const { return queries() + 2 * tile() + scores(); }
  int64_t state(int64_t count) const { return round_up(count * (2 + padded()) * 4, 64); }
  int64_t thread() const { return kernel() + 2 * state(rows()); }
};

}  // namespace ellm
