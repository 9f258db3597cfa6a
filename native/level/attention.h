// Causal attention over rows of an arena, by the flash recurrence.
//
// Tokens go in tiles of 64 that begin at multiples of 64, and tiles in splits of 1024 that begin at
// multiples of 1024.  A query's answer is made of its tiles in order, anew in each split, and of its
// splits in order: so it does not depend on how many queries are computed together, on where a
// prompt was cut, or on who computes which split.
//
//     keys of a tile      [words of a head][64 tokens]         turned, for scores = queries · keys
//     values of a tile    [64 tokens in words][head]           for answers += weights · values
//     state of a query    largest score, Σ of weights, answer  all float32
//
// A task is one sequence that decodes, or some queries of a prompt with one head of keys; alone, a
// sequence that decodes is a task for each split and head.
#pragma once

#include <math.h>

#include <algorithm>

#include "../interface.h"
#include "../threads.h"
#include "../attention_room.h"
#include "tile.h"
#include "transpose.h"

namespace ellm {
namespace ELLM_LEVEL {

template <class T>
struct Attention {
  using E = typename T::Element;
  static constexpr int64_t kTokenWords = kTile / T::kPerWord;

  const ellm_attention &op;
  const int64_t width = op.width, padded = round_up(op.width, kNarrowest);
  const int64_t words = op.width / T::kPerWord;
  const AttentionRoom room{op.kv_heads, op.group, op.width};

  // Queries [first, last) of a segment, with so many heads of keys from `head`.
  struct Block {
    const ellm_segment &segment;
    int64_t head, heads, first, last;
    char *room;
  };

  struct State {
    float *largest, *total, *answer;  // [rows], [rows], [rows, padded]
  };

  // Asks for the tile that comes next, in the order in which memory has it, a little at a time: the
  // machine has few requests under way at once, and whoever has one too many waits.
  struct Ahead {
    const char *const *places;
    int64_t bytes, values;  // of a token's keys, and how far behind them its values are
    int64_t token = 0, at = 0;

    void ask(int lines) {
      for (int line = 0; line < lines && token < kTile; ++line) {
        if (places[token] != zeros())
          __builtin_prefetch(places[token] + (at < bytes ? at : values + at - bytes), 0, 2);
        at += 64;
        if (at >= 2 * bytes) at = 0, ++token;
      }
    }
  };

  // Of one head of keys; those of the next one follow.
  int64_t rows(const Block &block) const { return (block.last - block.first) * op.group; }
  int64_t position(const Block &block, int64_t row) const {
    return block.segment.start + block.first + row / op.group;
  }
  int64_t reach(int64_t position) const {
    return op.window && position + 1 > op.window ? position + 1 - op.window : 0;
  }

  static State state(char *at, int64_t count) {
    auto *numbers = reinterpret_cast<float *>(at);
    return {numbers, numbers + count, numbers + 2 * count};
  }

  void clear(const State &s, int64_t count) const {
    for (int64_t r = 0; r < count; ++r) s.largest[r] = -INFINITY, s.total[r] = 0;
    memset(s.answer, 0, count * padded * sizeof(float));
  }

  // Where the first keys of a block are for each token of the tile from `begin`; those that are not
  // in [from, to) are zeros somewhere.
  void find(const Block &block, int64_t begin, int64_t from, int64_t to, const char **places) const {
    const ellm_segment &segment = block.segment;
    if (from < begin) from = begin;
    if (to > begin + kTile) to = begin + kTile;
    const auto size = static_cast<int64_t>(sizeof(E)), step = op.plane_stride * size;
    const char *base = static_cast<const char *>(op.planes) + block.head * width * size;
    for (int64_t t = begin; t < from; ++t) places[t - begin] = zeros();
    for (int64_t t = to; t < begin + kTile; ++t) places[t - begin] = zeros();
    for (int64_t t = from; t < to;) {
      const int64_t page = t / segment.span, last = (page + 1) * segment.span;
      const char *at = base + (segment.starts[page] + t - page * segment.span) * step;
      for (; t < to && t < last; ++t, at += step) places[t - begin] = at;
    }
  }

  // Where the first tile is of the task that this thread is likely to get after `block`; false if
  // that is not another sequence that decodes.
  bool find_after(const Block &block, const char **places) const {
    const ellm_segment *after = &block.segment + op.threads;
    if (block.heads != op.kv_heads || after >= op.segments + op.count) return false;
    if (block.segment.count != 1 || after->count != 1) return false;
    const int64_t from = reach(after->start);
    const Block next{*after, 0, block.heads, 0, 1, block.room};
    find(next, from / kTile * kTile, from, after->start + 1, places);
    return true;
  }

  static const char *zeros() {
    alignas(64) static const char some[kWidest * 4] = {};
    return some;
  }

  const char *next_head(const char *keys) const {
    return keys == zeros() ? keys : keys + width * sizeof(E);
  }

  // Where the values are that belong to keys.
  const E *values_of(const char *keys) const {
    return reinterpret_cast<const E *>(keys) + (keys == zeros() ? 0 : op.kv_heads * width);
  }

  void pack_values(const char *const *places, E *values, Ahead &ahead) const {
    for (int64_t t = 0; t < kTile; t += T::kPerWord) {
      ahead.ask(lines(3, kTokenWords));
      E *to = values + t * padded;
      const E *even = values_of(places[t]);
      if constexpr (T::kPerWord == 1) {
        memcpy(to, even, width * sizeof(E));
      } else {
        const E *odd = values_of(places[t + 1]);
        auto *pairs = reinterpret_cast<uint32_t *>(to);
        int64_t d = 0;
        for (; d + kLanes <= width; d += kLanes)
          store(pairs + d, wide(even + d) | wide(odd + d) << 16);
        for (; d < width; ++d)
          pairs[d] = static_cast<uint32_t>(even[d]) | static_cast<uint32_t>(odd[d]) << 16;
      }
    }
  }

  // Cache lines to ask for in each of so many `rounds`, which make so many eighths of all that a
  // head of a tile is done with.
  int lines(int64_t eighths, int64_t rounds) const {
    const int64_t all = kTile * 2 * width * static_cast<int64_t>(sizeof(E)) / 64;
    return static_cast<int>(rounds ? all * eighths / 8 / rounds + 1 : 0);
  }

  // One tile more for every row of one head.
  void attend(const Block &block, int64_t begin, const uint32_t *queries, const uint32_t *keys,
              const E *values, float *scores, const State &s, Ahead &ahead) const {
    const int64_t count = rows(block);
    memset(scores, 0, count * kTile * sizeof(float));
    multiply<T>(count, kTile, queries, words, keys, kTile, words, scores, kTile);
    auto *weights = reinterpret_cast<E *>(scores);  // [rows, 64] over what was read already
    for (int64_t r = 0; r < count; ++r) {
      const int64_t at = position(block, r);
      weigh(scores + r * kTile, reach(at) - begin, at + 1 - begin, s, r, weights + r * kTile);
      ahead.ask(lines(2, count));
    }
    multiply<T>(count, padded, reinterpret_cast<const uint32_t *>(weights), kTokenWords,
                reinterpret_cast<const uint32_t *>(values), padded, kTokenWords, s.answer, padded);
  }

  // Scores of one query become weights; only tokens [from, to) of the tile are seen.
  void weigh(float *scores, int64_t from, int64_t to, const State &s, int64_t r, E *weights) const {
    constexpr int kVectors = kTile / kLanes;
    if (from > 0 || to < kTile)
      for (int64_t i = 0; i < kTile; ++i)
        if (i < from || i >= to) scores[i] = -INFINITY;
    const auto scale = static_cast<float>(op.scale);
    Floats x[kVectors];
    for (int i = 0; i < kVectors; ++i) x[i] = load<Floats>(scores + i * kLanes) * scale;
    if (op.cap > 0)
      for (auto &some : x) some = capped(some);
    Floats most = x[0];
    for (int i = 1; i < kVectors; ++i) most = larger(most, x[i]);
    const float before = s.largest[r], highest = largest(most);
    const float now = highest > before ? highest : before;
    const float base = now == -INFINITY ? 0 : now;
    for (auto &some : x) some = exponential(some - base);
    Floats added = x[0];
    for (int i = 1; i < kVectors; ++i) added = added + x[i];
    for (int i = 0; i < kVectors; ++i) T::write(weights + i * kLanes, x[i]);
    s.largest[r] = now;
    if (before == now) {
      s.total[r] = s.total[r] + sum(added);
      return;
    }
    const float kept = exponential(splat(before - base))[0];
    s.total[r] = s.total[r] * kept + sum(added);
    for (int64_t d = 0; d < padded; d += kLanes) {
      float *y = s.answer + r * padded + d;
      store(y, load<Floats>(y) * kept);
    }
  }

  Floats capped(Floats x) const {
    const auto cap = static_cast<float>(op.cap);
    for (int i = 0; i < kLanes; ++i)
      if (x[i] != -INFINITY) x[i] = cap * tanhf(x[i] / cap);
    return x;
  }

  // All tiles of one split that some row of the block sees.
  void split(const Block &block, int64_t begin, char *at, const State &s) const {
    const int64_t end = block.segment.start + block.last;
    const int64_t first = reach(block.segment.start + block.first);
    const int64_t from = first > begin ? first : begin;
    const int64_t to = end < begin + kSplit ? end : begin + kSplit;
    auto *queries = reinterpret_cast<uint32_t *>(at);
    auto *keys = reinterpret_cast<uint32_t *>(at + room.queries());
    auto *values = reinterpret_cast<E *>(at + room.queries() + room.tile());
    auto *scores = reinterpret_cast<float *>(at + room.queries() + 2 * room.tile());
    const int64_t count = rows(block), size = sizeof(E);
    clear(s, block.heads * count);
    const char *places[kTile], *next[kTile];
    find(block, from / kTile * kTile, from, to, next);
    for (int64_t tile = from / kTile * kTile; tile < to; tile += kTile) {
      memcpy(places, next, sizeof places);
      Ahead ahead{next, size * block.heads * width, size * op.kv_heads * width};
      if (tile + kTile < to)
        find(block, tile + kTile, from, to, next);
      else if (!find_after(block, next))
        ahead.token = kTile;
      for (int64_t i = 0; i < block.heads; ++i) {
        const int share = lines(3, kTile / kLanes * (words / kLanes));
        turn(places, words, keys, [&] { ahead.ask(share); });
        pack_values(places, values, ahead);
        const State of{s.largest + i * count, s.total + i * count, s.answer + i * count * padded};
        attend(block, tile, queries + i * count * words, keys, values, scores, of, ahead);
        for (auto &place : places) place = next_head(place);
      }
    }
  }

  // Token of the step and head of queries that row `r` of a block is.
  int64_t token(const Block &block, int64_t r) const {
    return block.segment.first + block.first + r % rows(block) / op.group;
  }
  int64_t head(const Block &block, int64_t r) const {
    return (block.head + r / rows(block)) * op.group + r % op.group;
  }

  void gather(const Block &block) const {
    auto *to = reinterpret_cast<E *>(block.room);
    const auto *from = static_cast<const E *>(op.queries);
    for (int64_t r = 0; r < block.heads * rows(block); ++r)
      memcpy(to + r * width, from + token(block, r) * op.query_stride + head(block, r) * width,
             width * sizeof(E));
  }

  void merge(const State &whole, const State &part, int64_t count) const {
    for (int64_t r = 0; r < count; ++r) {
      if (part.largest[r] == -INFINITY) continue;
      const float most = larger(splat(whole.largest[r]), splat(part.largest[r]))[0];
      const float a = exponential(splat(whole.largest[r] - most))[0];
      const float b = exponential(splat(part.largest[r] - most))[0];
      whole.largest[r] = most;
      whole.total[r] = whole.total[r] * a + part.total[r] * b;
      for (int64_t d = 0; d < padded; d += kLanes) {
        float *y = whole.answer + r * padded + d;
        store(y, load<Floats>(y) * a + load<Floats>(part.answer + r * padded + d) * b);
      }
    }
  }

  void finish(const Block &block, const State &s) const {
    for (int64_t r = 0; r < block.heads * rows(block); ++r) {
      E *place =
          static_cast<E *>(op.out) + token(block, r) * op.out_stride + head(block, r) * width;
      const float share = 1 / s.total[r];
      for_each<T>(width, [&](int64_t d, int lanes) {
        write_some<T>(place + d, load<Floats>(s.answer + r * padded + d) * share, lanes);
      });
    }
  }

  void all_splits(const Block &block) const {
    char *states = block.room + room.kernel();
    const int64_t count = block.heads * rows(block);
    const State whole = state(states, count), part = state(states + room.state(count), count);
    gather(block);
    clear(whole, count);
    const int64_t end = block.segment.start + block.last;
    const int64_t first = reach(block.segment.start + block.first) / kSplit * kSplit;
    for (int64_t begin = first; begin < end; begin += kSplit) {
      split(block, begin, block.room, part);
      merge(whole, part, count);
    }
    finish(block, whole);
  }

  int64_t block_tokens() const { return op.group >= kBlock ? 1 : kBlock / op.group; }

  int64_t blocks(const ellm_segment &segment) const {
    return (segment.count + block_tokens() - 1) / block_tokens();
  }

  // A prompt is cut by heads too, so that a head's keys and values serve many queries; who decodes
  // reads all heads of a token together, because that is how they lie in memory.
  int64_t shares(const ellm_segment &segment) const { return segment.count == 1 ? 1 : op.kv_heads; }

  Block block(int64_t task, int thread) const {
    const ellm_segment *after = std::upper_bound(
        op.segments, op.segments + op.count, task,
        [](int64_t task, const ellm_segment &segment) { return task < segment.tasks_before; });
    const ellm_segment &segment = after[-1];
    const int64_t index = task - segment.tasks_before, parts = shares(segment);
    // The last queries see the most: they are the first to be computed.
    const int64_t first = (blocks(segment) - 1 - index / parts) * block_tokens();
    const int64_t last =
        first + block_tokens() < segment.count ? first + block_tokens() : segment.count;
    const int64_t heads = op.kv_heads / parts;
    return {segment, index % parts * heads, heads, first, last, op.room + thread * room.thread()};
  }

  // One sequence decodes: its heads and splits are tasks, each with a state of its own.
  void in_splits() const {
    const ellm_segment &segment = op.segments[0];
    const int64_t first = reach(segment.start) / kSplit;
    const int64_t count = segment.start / kSplit + 1 - first;
    char *states = op.room + op.threads * room.thread();
    const auto states_of = [&](int64_t task) {
      return state(states + task * room.state(op.group), op.group);
    };
    const auto one = [&](int64_t head, int thread) -> Block {
      return {segment, head, 1, 0, 1, op.room + thread * room.thread()};
    };
    Threads::shared().each(static_cast<int>(op.kv_heads * count), [&](int task, int thread) {
      [[maybe_unused]] const MatrixUnit<T> unit;
      const Block block = one(task % op.kv_heads, thread);
      gather(block);
      split(block, (first + task / op.kv_heads) * kSplit, block.room, states_of(task));
    }, static_cast<int>(op.threads));
    for (int64_t head = 0; head < op.kv_heads; ++head) {
      const State whole = state(op.room + room.kernel(), op.group);
      clear(whole, op.group);
      for (int64_t index = 0; index < count; ++index)
        merge(whole, states_of(index * op.kv_heads + head), op.group);
      finish(one(head, 0), whole);
    }
  }

  void run() const {
    if (op.count == 1 && op.segments[0].count == 1 && op.threads > 1) {
      in_splits();
      return;
    }
    int64_t tasks = 0;
    for (int64_t i = 0; i < op.count; ++i) {
      op.segments[i].tasks_before = tasks;
      tasks += blocks(op.segments[i]) * shares(op.segments[i]);
    }
    Threads::shared().each(static_cast<int>(tasks), [&](int task, int thread) {
      [[maybe_unused]] const MatrixUnit<T> unit;
      all_splits(block(task, thread));
    }, static_cast<int>(op.threads));
  }
};

template <class T>
static void attention(const ellm_attention &op) {
  Attention<T>{op}.run();
}

}  // namespace ELLM_LEVEL
}  // namespace ellm
