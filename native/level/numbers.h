// The two kinds of number, and how to multiply 32-bit words of them.
//
// A word is one float32, or two neighbouring bfloat16: what a matrix kernel multiplies at once.
#pragma once

#include "vector.h"

namespace ellm {
namespace ELLM_LEVEL {

static inline float widen(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// To the nearest, ties to even; a NaN stays one.
static inline uint16_t narrow(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Sixteen bits each, with zeros above; the compiler makes several instructions of what is one.
static inline Words wide(const uint16_t *from) {
#if ELLM_LANES == 16
  return (Words)_mm512_cvtepu16_epi32(load<__m256i>(from));
#elif ELLM_LANES == 8
  return (Words)_mm256_cvtepu16_epi32(load<__m128i>(from));
#else
  return __builtin_convertvector(load<Halves>(from), Words);
#endif
}

struct Float32 {
  using Element = float;
  static constexpr int kPerWord = 1;

  static Floats read(const float *from) { return load<Floats>(from); }
  static void write(float *to, Floats x) { store(to, x); }
  static float get(const float *from) { return *from; }
  static void set(float *to, float x) { *to = x; }
  static Floats dot(Floats sum, Words a, Words b) { return sum + (Floats)a * (Floats)b; }
};

struct BFloat16 {
  using Element = uint16_t;
  static constexpr int kPerWord = 2;

  static Floats read(const uint16_t *from) { return (Floats)(wide(from) << 16); }

  static void write(uint16_t *to, Floats x) {
#if defined(__AVX512BF16__)
    store(to, _mm512_cvtneps_pbh((__m512)x));
#else
    const Words bits = (Words)x;
    const Words rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const Words broken = bits >> 16 | 0x40u;
    const Words halves = (bits & 0x7fffffffu) > 0x7f800000u ? broken : rounded;
    store(to, __builtin_convertvector(halves, Halves));
#endif
  }

  static float get(const uint16_t *from) { return widen(*from); }
  static void set(uint16_t *to, float x) { *to = narrow(x); }

  static Floats dot(Floats sum, Words a, Words b) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum = sum + (Floats)(a << 16) * (Floats)(b << 16);
    return sum + (Floats)(a & 0xffff0000u) * (Floats)(b & 0xffff0000u);
#endif
  }
};

// `count` numbers, the last vector of them one by one.
template <class T, class F>
static inline void for_each(int64_t count, const F &f) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) f(i, kLanes);
  if (i < count) f(i, static_cast<int>(count - i));
}

// The first `lanes` numbers at `from`, then zeros.
template <class T>
static inline Floats read_some(const typename T::Element *from, int lanes) {
  if (lanes == kLanes) return T::read(from);
  float some[kLanes] = {};
  for (int i = 0; i < lanes; ++i) some[i] = T::get(from + i);
  return load<Floats>(some);
}

template <class T>
static inline void write_some(typename T::Element *to, Floats x, int lanes) {
  if (lanes == kLanes) return T::write(to, x);
  float some[kLanes];
  store(some, x);
  for (int i = 0; i < lanes; ++i) T::set(to + i, some[i]);
}

}  // namespace ELLM_LEVEL
}  // namespace ellm
