// The order in which weights are read.
//
// A matrix of [out, in] is cut into bands of 64 outputs, then of 16, then single ones:
//
//     band of B     [words of a row][B]: word k of each of its outputs, side by side
//     single        as it was
//
// So a kernel that makes B outputs reads one run from front to back, whatever the number of rows it
// multiplies.  Every band begins where its first row did, so packing is in place.  Rows that are
// no whole number of words stay as they were.
#pragma once

#include <stdint.h>

namespace ellm {

constexpr int64_t kWide = 64, kNarrow = 16;

struct Bands {
  int64_t wide_end, narrow_end, outputs;

  Bands(int64_t outputs, int64_t inputs, int per_word) : outputs(outputs) {
    const bool whole = inputs % per_word == 0;
    wide_end = whole ? outputs / kWide * kWide : 0;
    narrow_end = whole ? outputs / kNarrow * kNarrow : 0;
  }

  // How wide the band that begins with `output` is.
  int64_t width(int64_t output) const {
    return output < wide_end ? kWide : output < narrow_end ? kNarrow : 1;
  }

  int64_t count() const {
    return wide_end / kWide + (narrow_end - wide_end) / kNarrow + (outputs - narrow_end);
  }

  int64_t first(int64_t band) const {
    const int64_t wide = wide_end / kWide, narrow = (narrow_end - wide_end) / kNarrow;
    if (band < wide) return band * kWide;
    if (band < wide + narrow) return wide_end + (band - wide) * kNarrow;
    return narrow_end + band - wide - narrow;
  }
};

}  // namespace ellm
