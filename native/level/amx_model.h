// The same instructions in software, bit for bit: for tests on machines without them.
//
// A product of tiles adds what is even in k to one sum and what is odd to another, both from zero
// and in order, then these to each other, then that to what was there.  Every step is a fused one
// to the nearest; denormals count as zeros.  What the processor refuses ends the process.
#pragma once

#include <immintrin.h>
#include <string.h>

namespace ellm {
namespace ELLM_LEVEL {

struct ModelledTiles {
  TileShapes shapes;
  alignas(64) uint32_t words[8][16][16];
};

static inline ModelledTiles &modelled() {
  static thread_local ModelledTiles tiles = [] {
    ModelledTiles none = {};
    none.shapes.palette = 0;
    return none;
  }();
  return tiles;
}

static inline void require(bool allowed) {
  if (!allowed) __builtin_trap();
}

static inline void shape_tiles(const TileShapes &shapes) {
  require(shapes.palette == 1 && shapes.first_row == 0);
  for (int tile = 0; tile < 8; ++tile) {
    require(shapes.rows[tile] > 0 && shapes.rows[tile] <= 16);
    require(shapes.row_bytes[tile] > 0 && shapes.row_bytes[tile] <= 64);
  }
  modelled().shapes = shapes;
  memset(modelled().words, 0, sizeof modelled().words);
}

static inline void release_tiles() { modelled().shapes.palette = 0; }

template <int Tile>
static inline void load_tile(const void *from, int64_t row_bytes) {
  ModelledTiles &tiles = modelled();
  require(tiles.shapes.palette == 1);
  memset(tiles.words[Tile], 0, sizeof tiles.words[Tile]);
  for (int row = 0; row < tiles.shapes.rows[Tile]; ++row)
    memcpy(tiles.words[Tile][row], static_cast<const char *>(from) + row * row_bytes,
           tiles.shapes.row_bytes[Tile]);
}

template <int Tile>
static inline void store_tile(void *to, int64_t row_bytes) {
  const ModelledTiles &tiles = modelled();
  require(tiles.shapes.palette == 1);
  for (int row = 0; row < tiles.shapes.rows[Tile]; ++row)
    memcpy(static_cast<char *>(to) + row * row_bytes, tiles.words[Tile][row],
           tiles.shapes.row_bytes[Tile]);
}

static inline Floats fused(Words a, Words b, Floats sum) {
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
}

template <int Sums, int A, int B>
static inline void multiply_tiles() {
  ModelledTiles &tiles = modelled();
  const TileShapes &shapes = tiles.shapes;
  require(shapes.palette == 1);
  require(shapes.rows[Sums] == shapes.rows[A] && shapes.row_bytes[Sums] == shapes.row_bytes[B]);
  require(shapes.row_bytes[A] == 4 * shapes.rows[B]);
  const unsigned before = _mm_getcsr();
  _mm_setcsr(0x9fc0);  // no exceptions, to the nearest, denormals to zero in and out
  // Numbers come from memory after the one line and are back there before the other.
  asm volatile("" ::: "memory");
  for (int m = 0; m < shapes.rows[Sums]; ++m) {
    Floats even = {}, odd = {};
    for (int k = 0; k < shapes.rows[B]; ++k) {
      const Words a = splat(tiles.words[A][m][k]), b = load<Words>(tiles.words[B][k]);
      even = fused(a << 16, b << 16, even);
      odd = fused(a & 0xffff0000u, b & 0xffff0000u, odd);
    }
    store(tiles.words[Sums][m], load<Floats>(tiles.words[Sums][m]) + (even + odd));
  }
  asm volatile("" ::: "memory");
  _mm_setcsr(before);
}

}  // namespace ELLM_LEVEL
}  // namespace ellm
