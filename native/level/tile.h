// The one inner loop of all matrix products: rows × columns of sums that stay in registers.
//
//     sums[r][c] += Σ_k  a[r × a_stride + k] · b[k × b_stride + c]
//
// in words.  A sum is made in the order of k, one word after the other, whatever the tile it is in:
// so a result does not depend on how many rows are multiplied together.  A matrix unit keeps that
// promise in an order of its own (amx.h).
#pragma once

#include "matrix_unit.h"

namespace ellm {
namespace ELLM_LEVEL {

// Sums beside one vector of b for each column vector, and one broadcast: as many registers as there
// are.  A single row takes more columns, so that b is read in longer runs.
#if defined(__AVX512F__)
constexpr int kTileRows = 6, kTileVectors = 4, kRowVectors = 4;
#elif defined(__AVX2__)
constexpr int kTileRows = 6, kTileVectors = 2, kRowVectors = 8;
#else
constexpr int kTileRows = 4, kTileVectors = 2, kRowVectors = 8;
#endif
constexpr int kTileColumns = kTileVectors * kLanes;

// What is asked of memory meanwhile: the rows of b that are so many `words` behind those just read.
// Of `every` whole tiles that read the same b one after the other each asks for a part, its `turn`; a
// smaller one is done too soon to ask for any.
struct Wish {
  int64_t words = 0;
  int every = 1, turn = 0;
};

template <class T, int R, int V, bool kAsks>
static inline void tile_of(const uint32_t *a, int64_t a_stride, const uint32_t *b, int64_t b_stride,
                           int64_t words, float *sums, int64_t sum_stride, const Wish &wish) {
  int64_t wait = R == kTileRows ? wish.turn : words;
  Floats sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = load<Floats>(sums + r * sum_stride + v * kLanes);
  for (int64_t k = 0; k < words; ++k) {
    Words column[V];
    for (int v = 0; v < V; ++v) column[v] = load<Words>(b + k * b_stride + v * kLanes);
    if constexpr (kAsks)
      if (wait-- == 0) {
        wait = wish.every - 1;
        for (int v = 0; v < V; ++v)
          __builtin_prefetch(b + k * b_stride + v * kLanes + wish.words, 0, 2);
      }
    for (int r = 0; r < R; ++r) {
      const Words row = splat(a[r * a_stride + k]);
      for (int v = 0; v < V; ++v) sum[r][v] = T::dot(sum[r][v], row, column[v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(sums + r * sum_stride + v * kLanes, sum[r][v]);
}

template <class T, int V, bool kAsks, int R = kTileRows>
static inline void tile_rows(int rows, const uint32_t *a, int64_t a_stride, const uint32_t *b,
                             int64_t b_stride, int64_t words, float *sums, int64_t sum_stride,
                             const Wish &wish) {
  if constexpr (R > 0) {
    if (rows == R)
      tile_of<T, R, V, kAsks>(a, a_stride, b, b_stride, words, sums, sum_stride, wish);
    else
      tile_rows<T, V, kAsks, R - 1>(rows, a, a_stride, b, b_stride, words, sums, sum_stride, wish);
  }
}

// Any number of rows, and of columns a multiple of 16.  With kAsks, what is `ahead` words behind b is
// on its way when this ends.
template <class T, bool kAsks = false>
static void multiply(int64_t rows, int64_t columns, const uint32_t *a, int64_t a_stride,
                     const uint32_t *b, int64_t b_stride, int64_t words, float *sums,
                     int64_t sum_stride, int64_t ahead = 0) {
  if constexpr (MatrixUnit<T>::kPresent)
    return MatrixUnit<T>::multiply(rows, columns, {a, a_stride, b, b_stride}, words, sums,
                                   sum_stride);
  const auto whole = static_cast<int>(rows / kTileRows);
  for (int64_t r = 0; r < rows; r += kTileRows) {
    const int some = static_cast<int>(rows - r < kTileRows ? rows - r : kTileRows);
    const uint32_t *top = a + r * a_stride;
    float *into = sums + r * sum_stride;
    const Wish wish{ahead, whole, static_cast<int>(r / kTileRows)};
    int64_t c = 0;
    if (some == 1)
      for (constexpr int run = kRowVectors * kLanes; c + run <= columns; c += run)
        tile_of<T, 1, kRowVectors, kAsks>(top, a_stride, b + c, b_stride, words, into + c,
                                          sum_stride, wish);
    for (; c + kTileColumns <= columns; c += kTileColumns)
      tile_rows<T, kTileVectors, kAsks>(some, top, a_stride, b + c, b_stride, words, into + c,
                                        sum_stride, wish);
    for (; c < columns; c += kLanes)
      tile_rows<T, 1, kAsks>(some, top, a_stride, b + c, b_stride, words, into + c, sum_stride,
                             wish);
  }
}

}  // namespace ELLM_LEVEL
}  // namespace ellm
