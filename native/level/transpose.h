// Rows of words into columns.
#pragma once

#include "../attention_room.h"
#include "vector.h"

namespace ellm {
namespace ELLM_LEVEL {

#if ELLM_LANES == 16
// The lower or upper halves of two vectors, word by word in turn.
static inline Words zip_low(Words a, Words b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
static inline Words zip_high(Words a, Words b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                 31);
}
#elif ELLM_LANES == 8
static inline Words zip_low(Words a, Words b) {
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
static inline Words zip_high(Words a, Words b) {
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
#else
static inline Words zip_low(Words a, Words b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
static inline Words zip_high(Words a, Words b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#endif

// Row i becomes column i: each round interleaves the first half of the rows with the second.
static inline void transpose(Words (&rows)[kLanes]) {
  for (int round = kLanes; round > 1; round /= 2) {
    Words next[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = zip_low(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = zip_high(rows[i], rows[i + kLanes / 2]);
    }
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

// out[w][t] = word w at places[t], 64 places; calls `meanwhile` for each square of lanes.
template <class F>
static void turn(const char *const *places, int64_t words, uint32_t *out, const F &meanwhile) {
  for (int64_t t = 0; t < kTile; t += kLanes) {
    int64_t w = 0;
    for (; w + kLanes <= words; w += kLanes) {
      meanwhile();
      Words rows[kLanes];
      for (int i = 0; i < kLanes; ++i)
        rows[i] = load<Words>(places[t + i] + 4 * w);
      transpose(rows);
      for (int i = 0; i < kLanes; ++i) store(out + (w + i) * kTile + t, rows[i]);
    }
    for (; w < words; ++w)
      for (int i = 0; i < kLanes; ++i)
        memcpy(out + w * kTile + t + i, places[t + i] + 4 * w, 4);
  }
}

}  // namespace ELLM_LEVEL
}  // namespace ellm
