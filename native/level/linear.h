// x @ weight.T, over packed weights (packing.h).
//
//     for a block of kRows rows of x           its sums stay in the first cache
//       for kWords words of the row            that much of a band stays in the second
//         for 6 rows of the block              tile.h
//
// Some rows take about as long as their band takes to come from memory: those go through it in small
// pieces, and while one serves row after row the next is on its way.  With fewer the machine reads
// ahead best by itself, with more it does not matter.  Threads share runs of bands that lie behind
// one another, and blocks of rows where there are many: all blocks of a run one after the other, so
// that weights come from memory once.
#pragma once

#include <algorithm>

#include "../interface.h"
#include "../packing.h"
#include "../threads.h"
#include "tile.h"

namespace ellm {
namespace ELLM_LEVEL {

constexpr int64_t kRows = 96, kWords = 1024, kPiece = 64, kRun = 4;

template <class T>
struct Linear {
  using E = typename T::Element;

  const ellm_linear &op;
  const Bands bands;
  const E *x = static_cast<const E *>(op.x), *weight = static_cast<const E *>(op.weight),
          *bias = static_cast<const E *>(op.bias);
  E *out = static_cast<E *>(op.out);

  void finish(const float *sums, int64_t row, int64_t output, int count) const {
    E *to = out + row * op.out_stride + output;
    for_each<T>(count, [&](int64_t i, int lanes) {
      Floats y = load<Floats>(sums + i);
      if (bias) y = y + read_some<T>(bias + output + i, lanes);
      write_some<T>(to + i, y, lanes);
    });
  }

  template <bool kAsks>
  void in_pieces(int64_t piece, int64_t rows, int64_t width, const uint32_t *a, int64_t stride,
                 const uint32_t *b, float *sums) const {
    const int64_t words = op.inputs / T::kPerWord;
    for (int64_t k = 0; k < words; k += piece) {
      const int64_t some = words - k < piece ? words - k : piece;
      multiply<T, kAsks>(rows, width, a + k, stride, b + k * width, width, some, sums, width,
                         some * width);
    }
  }

  void band(int64_t output, int64_t width, int64_t first, int64_t last) const {
    alignas(64) float sums[kRows * kWide];
    const int64_t rows = last - first, stride = op.x_stride / T::kPerWord;
    const auto *a = reinterpret_cast<const uint32_t *>(x + first * op.x_stride);
    const auto *b = reinterpret_cast<const uint32_t *>(weight + output * op.inputs);
    memset(sums, 0, rows * width * sizeof *sums);
    if (!MatrixUnit<T>::kPresent && rows >= 2 * kTileRows && rows < kRows / 2)
      in_pieces<true>(kPiece, rows, width, a, stride, b, sums);
    else
      in_pieces<false>(kWords, rows, width, a, stride, b, sums);
    for (int64_t row = 0; row < rows; ++row)
      finish(sums + row * width, first + row, output, static_cast<int>(width));
  }

  void single(int64_t output, int64_t first, int64_t last) const {
    const E *w = weight + output * op.inputs;
    for (int64_t row = first; row < last; ++row) {
      const E *from = x + row * op.x_stride;
      Floats partial = {};
      for_each<T>(op.inputs, [&](int64_t i, int lanes) {
        partial = partial + read_some<T>(from + i, lanes) * read_some<T>(w + i, lanes);
      });
      float y = sum(partial);
      if (bias) y += T::get(bias + output);
      T::set(out + row * op.out_stride + output, y);
    }
  }

  void run() const {
    const int64_t blocks = (op.rows + kRows - 1) / kRows, count = bands.count();
    const int64_t run = std::clamp<int64_t>(count / (4 * Threads::shared().count()), 1, kRun);
    const int64_t runs = (count + run - 1) / run;
    Threads::shared().each(static_cast<int>(blocks * runs), [&](int task, int) {
      [[maybe_unused]] const MatrixUnit<T> unit;
      const int64_t first = task % blocks * kRows, begin = task / blocks * run;
      const int64_t last = first + kRows < op.rows ? first + kRows : op.rows;
      const int64_t end = begin + run < count ? begin + run : count;
      for (int64_t index = begin; index < end; ++index) {
        const int64_t output = bands.first(index), width = bands.width(output);
        if (width == 1)
          single(output, first, last);
        else
          band(output, width, first, last);
      }
    });
  }
};

template <class T>
static void linear(const ellm_linear &op) {
  Linear<T>{op, Bands(op.outputs, op.inputs, T::kPerWord)}.run();
}

}  // namespace ELLM_LEVEL
}  // namespace ellm
