// Products of bfloat16 in tiles of AMX.
//
//     tile 4    16 words of up to 16 rows of a           tiles 6, 7    16 words of 16 columns of b,
//     tile 5    the same of the rows below them                        which is how it is packed
//     tiles 0, 1    sums of the upper rows and one or two blocks of columns
//     tiles 2, 3    sums of the lower rows; or more columns, where there are no lower rows
//
// A sum takes 16 words at a time in the order of k, the last ones filled up with zeros, and goes to
// memory and back unchanged: so it depends neither on the rows beside it nor on where k was cut, if
// at multiples of 16.  Where rows are no multiple of 16, tiles have fewer: shaping them is dear, so
// all blocks of rows but the last are of one height.
#pragma once

#include "../packing.h"
#include "amx_tiles.h"

namespace ellm {
namespace ELLM_LEVEL {

constexpr int64_t kTileHeight = 16, kTileWords = 16;
// Words of 32 columns of b that stay in the first cache while blocks of rows pass by.
constexpr int64_t kDepth = 256;
// How many words ahead a band is asked for where rows are few, and it comes from memory.
constexpr int64_t kAhead = 2 * kTileWords;

struct TileHeights {
  int upper = 0, lower = 0;  // 0 for no tiles at all
  bool operator==(const TileHeights &) const = default;
};

// As this thread has shaped its tiles.
static inline TileHeights &shaped() {
  static thread_local TileHeights heights;
  return heights;
}

static inline void shape(TileHeights heights) {
  if (shaped() == heights) return;
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) {
    const bool lower = tile == 2 || tile == 3 || tile == 5;
    shapes.row_bytes[tile] = 64;
    shapes.rows[tile] = static_cast<uint8_t>(tile >= 6 ? 16 : lower ? heights.lower : heights.upper);
  }
  shape_tiles(shapes);
  shaped() = heights;
}

// Strides count words.
struct TileFactors {
  const uint32_t *a;
  int64_t a_stride;
  const uint32_t *b;
  int64_t b_stride;
};

// One or two blocks of rows times V of 16 columns.  `below` is how many rows the upper tiles have:
// all that is needed stays in registers, as no instruction may be thought to change it.
template <int Blocks, int V>
struct TileBlock {
  static_assert(Blocks * V <= 4 && kLanes == 16);

  template <int C = 0>
  static void load_sums(const float *sums, int64_t stride, int64_t below) {
    if constexpr (C < V) {
      load_tile<C>(sums + C * kLanes, stride * 4);
      if constexpr (Blocks == 2) load_tile<2 + C>(sums + below * stride + C * kLanes, stride * 4);
      load_sums<C + 1>(sums, stride, below);
    }
  }

  template <int C = 0>
  static void store_sums(float *sums, int64_t stride, int64_t below) {
    if constexpr (C < V) {
      store_tile<C>(sums + C * kLanes, stride * 4);
      if constexpr (Blocks == 2) store_tile<2 + C>(sums + below * stride + C * kLanes, stride * 4);
      store_sums<C + 1>(sums, stride, below);
    }
  }

  template <int C = 0>
  static void columns(const uint32_t *b, int64_t stride) {
    if constexpr (C < V) {
      // A quarter of a step as wide bands have it; b of other strides is in the cache already.
      if constexpr (V == 4)
        for (int line = 0; line < kTileWords; ++line)
          __builtin_prefetch(b + kAhead * kWide + (C * kTileWords + line) * kLanes, 0, 2);
      load_tile<6 + C % 2>(b + C * kLanes, stride * 4);
      multiply_tiles<C, 4, 6 + C % 2>();
      if constexpr (Blocks == 2) multiply_tiles<2 + C, 5, 6 + C % 2>();
      columns<C + 1>(b, stride);
    }
  }

  static void step(TileFactors f, int64_t below) {
    load_tile<4>(f.a, f.a_stride * 4);
    if constexpr (Blocks == 2) load_tile<5>(f.a + below * f.a_stride, f.a_stride * 4);
    columns(f.b, f.b_stride);
  }

  // Fewer words than a tile has, of so many rows.
  static void last_step(TileFactors f, int64_t words, int64_t rows, int64_t below) {
    alignas(64) uint32_t a[2 * kTileHeight * kTileWords] = {}, b[kTileWords * V * kLanes] = {};
    for (int64_t row = 0; row < rows; ++row)
      memcpy(a + row * kTileWords, f.a + row * f.a_stride, words * 4);
    for (int64_t k = 0; k < words; ++k)
      memcpy(b + k * V * kLanes, f.b + k * f.b_stride, V * kLanes * 4);
    step({a, kTileWords, b, V * kLanes}, below);
  }

  static void run(TileHeights heights, TileFactors f, int64_t words, float *sums,
                  int64_t sum_stride) {
    const int64_t below = heights.upper, rows = below + (Blocks == 2 ? heights.lower : 0);
    load_sums(sums, sum_stride, below);
    for (; words >= kTileWords; words -= kTileWords) {
      step(f, below);
      f.a += kTileWords;
      f.b += kTileWords * f.b_stride;
    }
    if (words) last_step(f, words, rows, below);
    store_sums(sums, sum_stride, below);
  }
};

template <>
struct MatrixUnit<BFloat16> {
  static constexpr bool kPresent = true;

  MatrixUnit() = default;
  MatrixUnit(const MatrixUnit &) = delete;
  // The system need not keep tiles for a thread that has released them.
  ~MatrixUnit() {
    if (shaped() == TileHeights{}) return;
    release_tiles();
    shaped() = {};
  }

  // `count` times one or two blocks of rows of these heights.
  template <int Blocks>
  static void blocks(int64_t count, TileHeights heights, int64_t columns, const TileFactors &f,
                     int64_t words, float *sums, int64_t sum_stride) {
    shape(heights);
    constexpr int kWhole = 4 / Blocks;
    const int64_t height = heights.upper + (Blocks == 2 ? heights.lower : 0);
    const int64_t depth = count > 1 ? kDepth : words;
    for (int64_t k = 0; k < words; k += depth) {
      const int64_t some = words - k < depth ? words - k : depth;
      for (int64_t c = 0; c < columns;) {
        const bool whole = c + kWhole * kLanes <= columns;
        for (int64_t r = 0; r < count * height; r += height) {
          const TileFactors part{f.a + r * f.a_stride + k, f.a_stride, f.b + k * f.b_stride + c,
                                 f.b_stride};
          float *into = sums + r * sum_stride + c;
          if (whole)
            TileBlock<Blocks, kWhole>::run(heights, part, some, into, sum_stride);
          else
            TileBlock<Blocks, 1>::run(heights, part, some, into, sum_stride);
        }
        c += whole ? kWhole * kLanes : kLanes;
      }
    }
  }

  // As `multiply` of tile.h.
  static void multiply(int64_t rows, int64_t columns, TileFactors f, int64_t words, float *sums,
                       int64_t sum_stride) {
    if (rows == 0) return;
    const int64_t tiles = (rows + kTileHeight - 1) / kTileHeight;
    const int height = static_cast<int>((rows + tiles - 1) / tiles);
    const int64_t pairs = rows / (2 * height);
    if (pairs) blocks<2>(pairs, {height, height}, columns, f, words, sums, sum_stride);
    const int rest = static_cast<int>(rows - pairs * 2 * height);
    f.a += (rows - rest) * f.a_stride;
    sums += (rows - rest) * sum_stride;
    if (rest > height)
      blocks<2>(1, {height, rest - height}, columns, f, words, sums, sum_stride);
    else if (rest)
      blocks<1>(1, {rest, rest}, columns, f, words, sums, sum_stride);
  }
};

}  // namespace ELLM_LEVEL
}  // namespace ellm
