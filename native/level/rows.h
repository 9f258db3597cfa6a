// What is done to each row alone: norms, rotation, activation, and moving rows about.
#pragma once

#include <math.h>

#include "../interface.h"
#include "../packing.h"
#include "../threads.h"
#include "numbers.h"

namespace ellm {
namespace ELLM_LEVEL {

// A task is so many numbers at least: fewer are done before another thread is awake.
constexpr int64_t kTaskNumbers = 1 << 14;

// work(first, last) over all rows, each of so many numbers.
template <class F>
static void by_rows(int64_t rows, int64_t numbers, const F &work) {
  const int64_t least = kTaskNumbers / (numbers > 0 ? numbers : 1) + 1;
  const int64_t shares = 4 * Threads::shared().count();
  const int64_t size = rows / shares > least ? rows / shares : least;
  Threads::shared().each(static_cast<int>((rows + size - 1) / size), [&](int task, int) {
    const int64_t first = task * size;
    work(first, first + size < rows ? first + size : rows);
  });
}

template <class T>
static inline void add_some(typename T::Element *to, const typename T::Element *x, int lanes) {
  write_some<T>(to, read_some<T>(to, lanes) + read_some<T>(x, lanes), lanes);
}

template <class T, bool kAdds>
static void norm_rows(const ellm_norm &op) {
  using E = typename T::Element;
  const auto *weight = static_cast<const E *>(op.weight), *bias = static_cast<const E *>(op.bias);
  const auto one = [&](E *x, const E *added, E *out) {
    // Who reads x first adds to it, and reads what was rounded.
    const auto fresh = [&](int64_t i, int lanes) {
      if (kAdds) add_some<T>(x + i, added + i, lanes);
      return read_some<T>(x + i, lanes);
    };
    const auto count = static_cast<float>(op.width);
    float mean = 0;
    if (bias) {
      Floats total = {};
      for_each<T>(op.width, [&](int64_t i, int lanes) { total = total + fresh(i, lanes); });
      mean = sum(total) / count;
    }
    Floats squares = {};
    for_each<T>(op.width, [&](int64_t i, int lanes) {
      // Lanes beyond the end would count as 0 - mean.
      Floats y = (bias ? read_some<T>(x + i, lanes) : fresh(i, lanes)) - mean;
      for (int lane = lanes; lane < kLanes; ++lane) y[lane] = 0;
      squares = squares + y * y;
    });
    const float share = 1 / sqrtf(sum(squares) / count + static_cast<float>(op.eps));
    for_each<T>(op.width, [&](int64_t i, int lanes) {
      Floats y = (read_some<T>(x + i, lanes) - mean) * share * read_some<T>(weight + i, lanes);
      if (bias) y = y + read_some<T>(bias + i, lanes);
      write_some<T>(out + i, y, lanes);
    });
  };
  by_rows(op.rows, op.heads * op.width, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const E *added = kAdds ? static_cast<const E *>(op.added) + row * op.added_stride : nullptr;
      for (int64_t head = 0; head < op.heads; ++head)
        one(static_cast<E *>(op.x) + row * op.x_stride + head * op.x_head_stride, added,
            static_cast<E *>(op.out) + row * op.out_stride + head * op.out_head_stride);
    }
  });
}

template <class T>
static void norm(const ellm_norm &op) {
  op.added ? norm_rows<T, true>(op) : norm_rows<T, false>(op);
}

template <class T>
static void add(const ellm_add &op) {
  using E = typename T::Element;
  by_rows(op.rows, op.width, [&](int64_t first, int64_t last) {
    const E *x = static_cast<const E *>(op.x) + first * op.width;
    E *to = static_cast<E *>(op.residual) + first * op.width;
    for_each<T>((last - first) * op.width,
                [&](int64_t i, int lanes) { add_some<T>(to + i, x + i, lanes); });
  });
}

template <class T>
static void angles(const ellm_angles &op) {
  using E = typename T::Element;
  const auto scale = static_cast<float>(op.scale);
  // A sine is dear: as much as some sixteen numbers elsewhere.
  by_rows(op.rows, 16 * op.half, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      for (int64_t i = 0; i < op.half; ++i) {
        const float angle = static_cast<float>(op.positions[row]) * op.frequencies[i];
        T::set(static_cast<E *>(op.cos) + row * op.half + i, cosf(angle) * scale);
        T::set(static_cast<E *>(op.sin) + row * op.half + i, sinf(angle) * scale);
      }
  });
}

template <class T>
static void rotary(const ellm_rotary &op) {
  using E = typename T::Element;
  by_rows(op.rows, 2 * op.heads * op.half, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const E *cos = static_cast<const E *>(op.cos) + row * op.half;
      const E *sin = static_cast<const E *>(op.sin) + row * op.half;
      for (int64_t head = 0; head < op.heads; ++head) {
        E *low = static_cast<E *>(op.x) + row * op.stride + head * op.head_stride;
        E *high = low + op.half;
        for_each<T>(op.half, [&](int64_t i, int lanes) {
          const Floats a = read_some<T>(low + i, lanes), b = read_some<T>(high + i, lanes);
          const Floats c = read_some<T>(cos + i, lanes), s = read_some<T>(sin + i, lanes);
          write_some<T>(low + i, a * c - b * s, lanes);
          write_some<T>(high + i, b * c + a * s, lanes);
        });
      }
    }
  });
}

template <class T>
static void store_rows(const ellm_store &op) {
  using E = typename T::Element;
  by_rows(op.rows, op.width, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      memcpy(static_cast<E *>(op.planes) + op.places[row] * op.plane_stride,
             static_cast<const E *>(op.x) + row * op.x_stride, op.width * sizeof(E));
  });
}

template <class T>
static void select(const ellm_select &op) {
  using E = typename T::Element;
  by_rows(op.rows, op.width, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      memcpy(static_cast<E *>(op.out) + row * op.out_stride,
             static_cast<const E *>(op.x) + op.places[row] * op.x_stride, op.width * sizeof(E));
  });
}

// Rows of a packed matrix.
template <class T>
static void embed(const ellm_select &op) {
  using E = typename T::Element;
  const Bands bands(op.total, op.width, T::kPerWord);
  by_rows(op.rows, 4 * op.width, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t place = op.places[row], width = bands.width(place);
      const int64_t begin = width == 1 ? place : place / width * width;
      const E *from = static_cast<const E *>(op.x) + begin * op.width;
      E *to = static_cast<E *>(op.out) + row * op.out_stride;
      if (width == 1)
        memcpy(to, from, op.width * sizeof(E));
      else
        for (int64_t word = 0; word < op.width / T::kPerWord; ++word)
          memcpy(to + word * T::kPerWord, from + (word * width + place - begin) * T::kPerWord, 4);
    }
  });
}

static inline Floats by_lane(float (*f)(float), Floats x) {
  for (int i = 0; i < kLanes; ++i) x[i] = f(x[i]);
  return x;
}

static inline Floats act(int64_t activation, Floats x) {
  switch (activation) {
    case ELLM_SILU:
      return x / (1.0f + exponential(-x));
    case ELLM_GELU:
      return 0.5f * x * (1.0f + by_lane(erff, x * 0.70710678f));
    case ELLM_GELU_TANH:
      return 0.5f * x * (1.0f + by_lane(tanhf, 0.79788456f * (x + 0.044715f * x * x * x)));
    default:
      return larger(x, Floats{});
  }
}

template <class T>
static void activate(const ellm_activate &op) {
  using E = typename T::Element;
  by_rows(op.rows, 2 * op.width, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const E *gate = static_cast<const E *>(op.x) + row * op.x_stride, *up = gate + op.width;
      E *to = static_cast<E *>(op.out) + row * op.out_stride;
      for_each<T>(op.width, [&](int64_t i, int lanes) {
        Floats y = act(op.activation, read_some<T>(gate + i, lanes));
        if (op.gated) y = y * read_some<T>(up + i, lanes);
        write_some<T>(to + i, y, lanes);
      });
    }
  });
}

}  // namespace ELLM_LEVEL
}  // namespace ellm
