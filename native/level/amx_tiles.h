// The instructions of AMX on its eight tiles, each of at most 16 rows of 64 bytes.
//
// In assembly of our own: the number of a tile is then a template's parameter, and each instruction
// says that it reads or writes memory.  Without that, gcc 12 drops the stores to the shapes that the
// first one reads.
#pragma once

#include <stdint.h>

namespace ellm {
namespace ELLM_LEVEL {

struct TileShapes {
  uint8_t palette = 1, first_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileShapes) == 64);

}  // namespace ELLM_LEVEL
}  // namespace ellm

#if defined(ELLM_AMX_MODEL)
#include "amx_model.h"
#else

namespace ellm {
namespace ELLM_LEVEL {

// All tiles are zeros then.
static inline void shape_tiles(const TileShapes &shapes) {
  asm volatile("ldtilecfg %0" ::"m"(shapes) : "memory");
}

static inline void release_tiles() { asm volatile("tilerelease" ::: "memory"); }

template <int Tile>
static inline void load_tile(const void *from, int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(Tile) : "memory");
}

template <int Tile>
static inline void store_tile(void *to, int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(Tile) : "memory");
}

// sums[m][n] += Σ_k a[m][k] · b[k][n] over words of two bfloat16 each.
template <int Sums, int A, int B>
static inline void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(A), "i"(B));
}

}  // namespace ELLM_LEVEL
}  // namespace ellm

#endif
