// The C interface.
#include "interface.h"

#include <algorithm>
#include <string>
#include <vector>

#include "attention_room.h"
#include "level.h"
#include "packing.h"
#include "threads.h"

namespace ellm {
namespace {

// [width rows][words] to [words][width].  A line of every row at a time, so that what is written
// stays in the cache until it is whole.
void pack_band(uint32_t *band, int64_t width, int64_t words) {
  constexpr int64_t kLine = 16;
  const std::vector<uint32_t> rows(band, band + width * words);
  for (int64_t first = 0; first < words; first += kLine) {
    const int64_t last = std::min(words, first + kLine);
    for (int64_t n = 0; n < width; ++n)
      for (int64_t k = first; k < last; ++k) band[k * width + n] = rows[n * words + k];
  }
}

void fit(ellm_op &op, int64_t rows, ellm_segment *segments, int64_t segment_count) {
  switch (op.kind) {
    case ELLM_LINEAR:
      op.linear.rows = rows;
      return;
    case ELLM_NORM:
      op.norm.rows = rows;
      return;
    case ELLM_ADD:
      op.add.rows = rows;
      return;
    case ELLM_ANGLES:
      op.angles.rows = rows;
      return;
    case ELLM_ROTARY:
      op.rotary.rows = rows;
      return;
    case ELLM_STORE:
      op.store.rows = rows;
      return;
    case ELLM_ATTENTION:
      op.attention.segments = segments;
      op.attention.count = segment_count;
      return;
    case ELLM_ACTIVATE:
      op.activate.rows = rows;
      return;
    case ELLM_SELECT:
    case ELLM_EMBED:
      op.select.rows = rows;
      return;
    case ELLM_SAMPLE:
      op.sample.rows = rows;
      return;
    case ELLM_SCORE:
      op.score.rows = rows;
      return;
  }
}

}  // namespace
}  // namespace ellm

using namespace ellm;

int ellm_interface(void) { return ELLM_INTERFACE; }

const char *ellm_levels(void) {
  static const std::string names = [] {
    std::string all;
    for (const Level &level : levels()) all += (all.empty() ? "" : ",") + level.name;
    return all;
  }();
  return names.c_str();
}

void ellm_threads(int count) { Threads::shared().resize(count); }

void ellm_run(int level, const ellm_op *ops, int64_t count) {
  const Run run = levels()[level].run;
  for (int64_t i = 0; i < count; ++i) run(ops[i]);
}

void ellm_replay(int level, ellm_op *ops, int64_t count, int64_t rows, ellm_segment *segments,
                 int64_t segment_count) {
  for (int64_t i = 0; i < count; ++i) fit(ops[i], rows, segments, segment_count);
  ellm_run(level, ops, count);
}

void ellm_pack(void *weight, int64_t rows, int64_t columns, int32_t dtype) {
  const int per_word = dtype == ELLM_BFLOAT16 ? 2 : 1;
  const Bands bands(rows, columns, per_word);
  const int64_t words = columns / per_word;
  Threads::shared().each(static_cast<int>(bands.count()), [&](int band, int) {
    const int64_t output = bands.first(band), width = bands.width(output);
    if (width > 1) pack_band(static_cast<uint32_t *>(weight) + output * words, width, words);
  });
}

int ellm_thread_count(void) { return Threads::shared().count(); }

int64_t ellm_attention_room(int64_t threads, int64_t kv_heads, int64_t group, int64_t width,
                            int64_t longest) {
  const AttentionRoom room{kv_heads, group, width};
  const int64_t splits = longest / kSplit + 1;
  return threads * room.thread() + (threads > 1 ? kv_heads * splits * room.state(group) : 0);
}
