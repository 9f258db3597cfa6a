// What is done to rows of logits: draw a token, and say how likely tokens are.
//
// A draw is made in whole numbers, so that no sum depends on its order: not on how many lanes or
// threads there are, and not on who computes.  kernels/logits.py does the same, bit for bit.
//
//   depth   how far a logit is below the row's largest, in 2^-24 octaves: 0 for the likeliest
//   weight  2^40 × 2^-(depth / 2^24), so the sum of a row has room in 63 bits up to 2^22 tokens
#pragma once

#include <math.h>

#include <algorithm>

#include "../interface.h"
#include "../threads.h"
#include "numbers.h"

namespace ellm {
namespace ELLM_LEVEL {

constexpr float kLargest = 1e30f;
constexpr int kOctave = 24;
constexpr int32_t kDeepest = 63 << kOctave;
constexpr int kBinBits = 10;

// A NaN counts as minus infinity, and what is larger than kLargest as that.
static inline Floats sound(Floats x) {
  x = x == x ? x : splat(-INFINITY);
  return x < splat(kLargest) ? x : splat(kLargest);
}

template <class T>
static inline Floats read_logits(const typename T::Element *x, int lanes) {
  Floats y = read_some<T>(x, lanes);
  for (int lane = lanes; lane < kLanes; ++lane) y[lane] = -INFINITY;
  return y;
}

template <class T>
static float peak(const typename T::Element *x, int64_t width) {
  Floats best = splat(-INFINITY);
  for_each<T>(width, [&](int64_t i, int lanes) {
    const Floats y = read_logits<T>(x + i, lanes);
    best = y > best ? y : best;  // never for a NaN
  });
  return largest(best);
}

// The first of the largest, 0 where nothing is above minus infinity.
template <class T>
static int64_t likeliest(const typename T::Element *x, int64_t width) {
  Floats best = splat(-INFINITY);
  Ints at = {}, place;
  for (int lane = 0; lane < kLanes; ++lane) place[lane] = lane;
  for_each<T>(width, [&](int64_t i, int lanes) {
    const Floats y = sound(read_logits<T>(x + i, lanes));
    const Ints larger = y > best;
    best = larger ? y : best;
    at = larger ? place : at;
    place = place + kLanes;
  });
  const float most = largest(best);
  if (most < -kLargest) return 0;
  int64_t first = width;
  for (int lane = 0; lane < kLanes; ++lane)
    if (best[lane] == most && at[lane] < first) first = at[lane];
  return first;
}

// To a whole number of vectors, the last of them filled up with what no filter lets through.
template <class T>
static void depths(const typename T::Element *x, int64_t width, float temperature, float peak,
                   int32_t *to) {
  // Rounded after each step, as PyTorch does it: there is no product that a sum could swallow.
  constexpr float kScale = 1.44269504f * (1 << kOctave);
  for_each<T>(width, [&](int64_t i, int lanes) {
    Floats y = (splat(peak) - sound(read_logits<T>(x + i, lanes) / temperature)) * kScale;
    y = y < splat(static_cast<float>(kDeepest)) ? y : splat(static_cast<float>(kDeepest));
    Ints depth = __builtin_convertvector(y, Ints);
    for (int lane = lanes; lane < kLanes; ++lane) depth[lane] = kDeepest + 1;
    store(to + i, depth);
  });
}

// 2^-x on [0, 1] within 1.3e-7 of itself, in 2^-31, never rising; 1 and 1/2 at the ends.
static inline void weigh(const int32_t *depth, int64_t *weight) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint64_t part = static_cast<uint32_t>(depth[lane]) & ((1u << kOctave) - 1);
    uint64_t y = 2036727;
    y = 19791210 - (y * part >> kOctave);
    y = 118771735 - (y * part >> kOctave);
    y = 515791228 - (y * part >> kOctave);
    y = 1488515800 - (y * part >> kOctave);
    y = (1ull << 31) - (y * part >> kOctave);
    weight[lane] = static_cast<int64_t>(y << 9 >> (depth[lane] >> kOctave));
  }
}

// The same with nothing for what is deeper than `limit`, and the sum of it.
static inline int64_t weigh_within(const int32_t *depth, int32_t limit, int64_t *weight) {
  weigh(depth, weight);
  int64_t sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    weight[lane] = depth[lane] <= limit ? weight[lane] : 0;
    sum += weight[lane];
  }
  return sum;
}

// work(i, hits) for each vector from `i` with a depth in [low, high], in order, until it says stop.
template <class F>
static inline void within(const int32_t *depth, int64_t width, int32_t low, int32_t high, const F &work) {
  for (int64_t i = 0; i < width; i += kLanes) {
    const Ints some = load<Ints>(depth + i);
    const unsigned hits = bits((some >= low) & (some <= high));
    if (hits && !work(i, hits)) return;
  }
}

template <class F>
static inline void by_bit(unsigned hits, const F &work) {
  for (; hits; hits &= hits - 1) work(__builtin_ctz(hits));
}

// The least depth, up to `limit`, at which the measure of all that is no deeper has reached
// needed(its whole); `limit` if it never does.  Ten bits of the answer at a time.
template <bool Weighed, class N>
static int32_t reach(const int32_t *depth, int64_t width, int32_t limit, const N &needed) {
  int64_t goal = 0, below = 0;
  int32_t low = 0, high = limit;
  for (int shift = 2 * kBinBits; shift >= 0; shift -= kBinBits) {
    int64_t bins[1 << kBinBits] = {}, weights[kLanes];
    within(depth, width, low, high, [&](int64_t i, unsigned hits) {
      if (Weighed) weigh(depth + i, weights);
      by_bit(hits, [&](int lane) { bins[(depth[i + lane] - low) >> shift] += Weighed ? weights[lane] : 1; });
      return true;
    });
    if (shift == 2 * kBinBits) {
      int64_t whole = 0;
      for (const int64_t bin : bins) whole += bin;
      goal = needed(whole);
      if (goal > whole) return limit;
    }
    int32_t bin = 0;
    for (; below + bins[bin] < goal; ++bin) below += bins[bin];
    low += bin << shift;
    high = std::min(high, low + (1 << shift) - 1);
  }
  return low;
}

template <class T>
static int64_t draw(const typename T::Element *x, int64_t width, const ellm_draw &how, int32_t *depth) {
  const auto temperature = static_cast<float>(how.temperature);
  const float most = std::min(peak<T>(x, width) / temperature, kLargest);
  if (most < -kLargest) return 0;
  depths<T>(x, width, temperature, most, depth);
  auto limit = static_cast<int32_t>(how.deepest);
  const auto top_k = static_cast<int64_t>(how.top_k);
  if (top_k > 0 && top_k < width) {
    // The best of a part are no better than the best of all: few need to be counted then.
    for (const int64_t part : {width >> 8 & -kLanes, width >> 4 & -kLanes, width})
      limit = reach<false>(depth, part, limit, [&](int64_t) { return top_k; });
  }
  const auto share = [](int64_t whole, double part) {
    return static_cast<int64_t>(static_cast<double>(whole) * part);
  };
  if (how.top_p < 1)
    limit = reach<true>(depth, width, limit, [&](int64_t whole) {
      return std::clamp<int64_t>(share(whole, how.top_p), 1, whole);
    });
  int64_t weights[kLanes], whole = 0, token = 0;
  within(depth, width, 0, limit, [&](int64_t i, unsigned) {
    whole += weigh_within(depth + i, limit, weights);
    return true;
  });
  int64_t left = share(whole, how.point);
  within(depth, width, 0, limit, [&](int64_t i, unsigned) {
    const int64_t some = weigh_within(depth + i, limit, weights);
    if (some <= left) {
      left -= some;
      return true;
    }
    for (; weights[token] <= left; ++token) left -= weights[token];
    token += i;
    return false;
  });
  return token;
}

// `room` may be `x`: a depth lies where its logit was.
template <class T>
static int64_t choose(const typename T::Element *x, int64_t width, const ellm_draw &how, char *room) {
  if (how.temperature == 0) return likeliest<T>(x, width);
  return draw<T>(x, width, how, reinterpret_cast<int32_t *>(room));
}

template <class T>
static void sample(const ellm_sample &op) {
  using E = typename T::Element;
  Threads::shared().each(
      static_cast<int>(op.rows),
      [&](int row, int thread) {
        const E *x = static_cast<const E *>(op.x) + row * op.x_stride;
        char *room = op.room + thread * op.room_stride;
        const int64_t first = op.starts[row], last = op.starts[row + 1];
        if (first == last) {
          op.out[row] = choose<T>(x, op.width, op.how[row], room);
          return;
        }
        auto *changed = reinterpret_cast<float *>(room);
        for_each<T>(op.width, [&](int64_t i, int lanes) {
          write_some<Float32>(changed + i, read_some<T>(x + i, lanes), lanes);
        });
        for (int64_t i = first; i < last; ++i) changed[op.places[i]] = op.values[i];
        op.out[row] = choose<Float32>(changed, op.width, op.how[row], room);
      },
      static_cast<int>(op.threads));
}

// A float's order, and among equals the lower place before the higher.
static inline uint64_t ranked(float x, int64_t place) {
  uint32_t order;
  x += 0.0f;  // a zero has one sign
  memcpy(&order, &x, 4);
  order = order >> 31 ? ~order : order | 1u << 31;
  return static_cast<uint64_t>(order) << 32 | (UINT32_MAX - static_cast<uint32_t>(place));
}

static inline int64_t place_of(uint64_t rank) { return UINT32_MAX - static_cast<uint32_t>(rank); }

template <class T>
static void score_row(const ellm_score &op, int64_t row, uint64_t *best) {
  using E = typename T::Element;
  const E *x = static_cast<const E *>(op.x) + row * op.x_stride;
  const float found = std::min(peak<T>(x, op.width), kLargest);
  const bool broken = found < -kLargest;  // then the first token is the only one
  const float most = broken ? 0 : found;
  const auto logit = [&](int64_t i) {
    const float y = broken ? (i ? -INFINITY : 0) : T::get(x + i);
    return y == y ? std::min(y, kLargest) : -INFINITY;
  };
  const float chosen = logit(op.targets[row]);
  double sum_of_row = 0;
  int64_t above = 0, count = 0;
  float least = -INFINITY;
  // A sum of many floats is made of short ones, or the last would count for too little.
  constexpr int64_t kRun = 1024;
  for (int64_t begin = 0; begin < op.width; begin += kRun) {
    Floats total = {};
    Ints better = {};
    for_each<T>(std::min(kRun, op.width - begin), [&](int64_t offset, int lanes) {
      const int64_t i = begin + offset;
      Floats y = sound(read_logits<T>(x + i, lanes));
      if (broken) {
        y = splat(-INFINITY);
        if (i == 0) y[0] = 0;
      }
      total = total + exponential(y - most);
      better = better - (y > splat(chosen));
      if (op.top > 0 && (count < op.top || bits(y > splat(least))))
        for (int lane = 0; lane < lanes; ++lane) {
          const uint64_t rank = ranked(y[lane], i + lane);
          if (count < op.top) {
            best[count++] = rank;
            if (count == op.top) std::make_heap(best, best + count, std::greater<>());
          } else if (rank > best[0]) {
            std::pop_heap(best, best + count, std::greater<>());
            best[count - 1] = rank;
            std::push_heap(best, best + count, std::greater<>());
          }
          if (count == op.top) least = logit(place_of(best[0]));
        }
    });
    sum_of_row += sum(total);
    for (int lane = 0; lane < kLanes; ++lane) above += better[lane];
  }
  std::sort(best, best + count, std::greater<>());
  const auto whole = static_cast<float>(log(sum_of_row));
  float *values = op.values + row * (op.top + 1);
  int64_t *ids = op.ids + row * (op.top + 1);
  values[0] = chosen - most - whole;
  ids[0] = above + 1;
  for (int64_t next = 0; next < count; ++next) {
    ids[next + 1] = place_of(best[next]);
    values[next + 1] = logit(ids[next + 1]) - most - whole;
  }
}

template <class T>
static void score(const ellm_score &op) {
  Threads::shared().each(
      static_cast<int>(op.rows),
      [&](int row, int thread) {
        if (op.targets[row] >= 0)
          score_row<T>(op, row, reinterpret_cast<uint64_t *>(op.room + thread * op.room_stride));
      },
      static_cast<int>(op.threads));
}

}  // namespace ELLM_LEVEL
}  // namespace ellm
