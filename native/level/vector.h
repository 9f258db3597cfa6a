// Vectors as wide as the level has them, through the compiler's own vector types.
//
// Everything a level compiles is in a namespace of its own: the same inline function, compiled for
// two levels, must not be merged by the linker into the one that this machine cannot run.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define ELLM_LANES 16
#include <immintrin.h>
#elif defined(__AVX2__)
#define ELLM_LANES 8
#include <immintrin.h>
#else
#define ELLM_LANES 4
#endif

namespace ellm {
namespace ELLM_LEVEL {

constexpr int kLanes = ELLM_LANES;

typedef float Floats __attribute__((vector_size(4 * ELLM_LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * ELLM_LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * ELLM_LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * ELLM_LANES)));

template <class V>
static inline V load(const void *from) {
  V v;
  memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
static inline void store(void *to, V v) {
  memcpy(to, &v, sizeof v);
}

static inline Floats splat(float x) { return Floats{} + x; }
static inline Words splat(uint32_t x) { return Words{} + x; }

// One bit for each lane that is negative, as comparisons make them.
static inline unsigned bits(Ints v) {
#if ELLM_LANES == 16
  return _mm512_movepi32_mask((__m512i)v);
#elif ELLM_LANES == 8
  return _mm256_movemask_ps((__m256)v);
#else
  unsigned all = 0;
  for (int lane = 0; lane < kLanes; ++lane) all |= (v[lane] < 0 ? 1u : 0u) << lane;
  return all;
#endif
}

static inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// The lanes of `v`, those `by` further on.
#if ELLM_LANES == 16
#define ELLM_TURNED(v, by)                                                                     \
  __builtin_shufflevector(v, v, (by), (by) + 1, (by) + 2, (by) + 3, ((by) + 4) % 16,           \
                          ((by) + 5) % 16, ((by) + 6) % 16, ((by) + 7) % 16, ((by) + 8) % 16,  \
                          ((by) + 9) % 16, ((by) + 10) % 16, ((by) + 11) % 16,                 \
                          ((by) + 12) % 16, ((by) + 13) % 16, ((by) + 14) % 16, ((by) + 15) % 16)
#elif ELLM_LANES == 8
#define ELLM_TURNED(v, by)                                                                     \
  __builtin_shufflevector(v, v, (by), (by) + 1, (by) + 2, (by) + 3, ((by) + 4) % 8,            \
                          ((by) + 5) % 8, ((by) + 6) % 8, ((by) + 7) % 8)
#else
#define ELLM_TURNED(v, by) \
  __builtin_shufflevector(v, v, (by), ((by) + 1) % 4, ((by) + 2) % 4, ((by) + 3) % 4)
#endif

// f over all lanes, halves onto each other until one is left: always in the same order.
template <class F>
static inline float fold(Floats v, const F &f) {
#if ELLM_LANES == 16
  v = f(v, ELLM_TURNED(v, 8));
#endif
#if ELLM_LANES >= 8
  v = f(v, ELLM_TURNED(v, 4));
#endif
  v = f(v, ELLM_TURNED(v, 2));
  v = f(v, ELLM_TURNED(v, 1));
  return v[0];
}

static inline float sum(Floats v) {
  return fold(v, [](Floats a, Floats b) { return a + b; });
}

static inline float largest(Floats v) { return fold(v, larger); }

// e^x within 2 ulp; 0 below -87.3, exactly 1 for 0, and e^88 for more than that.
static inline Floats exponential(Floats x) {
  x = x > splat(88.0f) ? splat(88.0f) : x;
  const Floats scaled = x * 1.44269504f;
  Floats whole = scaled + splat(12582912.0f);  // the fraction has no room left beside 1.5 × 2^23
  const Words bits = (Words)whole;
  whole = whole - splat(12582912.0f);
  Floats rest = x - whole * 0.693359375f;
  rest = rest + whole * 2.12194440e-4f;
  Floats y = splat(1.9875691500e-4f);
  y = y * rest + 1.3981999507e-3f;
  y = y * rest + 8.3334519073e-3f;
  y = y * rest + 4.1665795894e-2f;
  y = y * rest + 1.6666665459e-1f;
  y = y * rest + 5.0000001201e-1f;
  y = y * (rest * rest) + rest + 1.0f;
  const Floats power = (Floats)((bits + splat(127u)) << 23);
  const Floats result = y * power;
  return x < splat(-87.3f) ? splat(0.0f) : result;
}

}  // namespace ELLM_LEVEL
}  // namespace ellm
