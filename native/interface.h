// The C interface: one operation is one struct, so a step is an array of them.
//
// Addresses are to caller's memory; strides count elements unless they say bytes.  Matrices of
// weights are [out, in] in the order that `pack` made of them (packing.h).
#pragma once

#include <stdint.h>

#define ELLM_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum ellm_dtype { ELLM_FLOAT32, ELLM_BFLOAT16 };

enum ellm_activation { ELLM_SILU, ELLM_GELU, ELLM_GELU_TANH, ELLM_RELU };

enum ellm_kind {
  ELLM_LINEAR,
  ELLM_NORM,
  ELLM_ADD,
  ELLM_ANGLES,
  ELLM_ROTARY,
  ELLM_STORE,
  ELLM_ATTENTION,
  ELLM_ACTIVATE,
  ELLM_SELECT,
  ELLM_EMBED,
  ELLM_SAMPLE,
  ELLM_SCORE,
};

// out[r] = x[r] @ weight.T + bias
struct ellm_linear {
  const void *x, *weight, *bias;  // bias may be null
  void *out;
  int64_t rows, inputs, outputs, x_stride, out_stride;
};

// Over the last axis of [rows, heads, width]: mean and deviation with a bias, rms without.
struct ellm_norm {
  void *x;
  const void *added;  // may be null; else x[r] += added[r] first, of one head
  const void *weight, *bias;  // bias may be null
  void *out;  // may be x or added
  int64_t rows, heads, width, x_stride, x_head_stride, added_stride, out_stride, out_head_stride;
  double eps;
};

// residual[r] += x[r], side by side
struct ellm_add {
  const void *x;
  void *residual;
  int64_t rows, width;
};

// cos and sin of position × frequency, times scale: [rows, half]
struct ellm_angles {
  const int64_t *positions;
  const float *frequencies;
  void *cos, *sin;
  int64_t rows, half;
  double scale;
};

// Turns the first 2 × half numbers of every head of [rows, heads, width], in place.
struct ellm_rotary {
  void *x;
  const void *cos, *sin;
  int64_t rows, heads, half, stride, head_stride;
};

// planes[places[r]] = x[r], each `width` numbers
struct ellm_store {
  const void *x;
  void *planes;
  const int64_t *places;
  int64_t rows, width, x_stride, plane_stride;
};

// One sequence's rows of the step, and the rows of the arena that hold its tokens.
struct ellm_segment {
  int64_t first, count, start;
  const int64_t *starts;  // token t is in row starts[t / span] + t % span
  int64_t span;
  int64_t tasks_before;  // attention writes it: how many tasks the others before it are
};

// Causal attention of [tokens, kv_heads × group, width].
struct ellm_attention {
  const void *queries;
  const void *planes;  // a layer's [arena rows, 2, kv_heads, width]
  void *out;
  struct ellm_segment *segments;
  char *room;  // ellm_attention_room(threads, ...) bytes, aligned to 64
  int64_t threads;  // no more than these compute, however many there are by now
  int64_t count, kv_heads, group, width, query_stride, out_stride, plane_stride;
  int64_t window;  // tokens that a query sees, itself one of them; 0 for all
  double scale, cap;  // cap 0 for none, else scores are cap × tanh(score / cap)
};

// act(x), or act(first half of x) × second half
struct ellm_activate {
  const void *x;
  void *out;
  int64_t rows, width, x_stride, out_stride, activation, gated;
};

// out[r] = x[places[r]]; ELLM_EMBED of a packed matrix with `total` rows
struct ellm_select {
  const void *x;
  void *out;
  const int64_t *places;
  int64_t rows, width, x_stride, out_stride, total;
};

// How a row's token is chosen: the first of the likeliest at temperature 0, else drawn from those
// that are at most `deepest` below it (2^-24 octaves, up to 63 octaves), among the top_k, if
// that is not 0, and in the smallest set with a share top_p; at `point` in [0, 1) of what is left.
struct ellm_draw {
  double temperature, deepest, top_k, top_p, point;
};

// A token for each row; level/logits.h has the arithmetic.  Row r is taken with `values` at
// `places`, both from starts[r] to starts[r + 1], instead of what it has there.
struct ellm_sample {
  const void *x;
  const struct ellm_draw *how;
  const int64_t *starts, *places;
  const float *values;
  int64_t *out;
  char *room;  // room_stride bytes for each of `threads`: 4 × width rounded up to 64, aligned so
  int64_t threads, room_stride, rows, width, x_stride;
};

// For each row whose target is not below 0, [rows, 1 + top]: the target's log-probability and
// rank, then the log-probabilities and ids of the `top` likeliest, no more than width, in falling
// order.
struct ellm_score {
  const void *x;
  const int64_t *targets;
  float *values;
  int64_t *ids;
  char *room;  // room_stride bytes for each of `threads`: 8 × top, aligned to 8
  int64_t threads, room_stride, rows, width, x_stride, top;
};

struct ellm_op {
  int32_t kind, dtype;
  union {
    struct ellm_linear linear;
    struct ellm_norm norm;
    struct ellm_add add;
    struct ellm_angles angles;
    struct ellm_rotary rotary;
    struct ellm_store store;
    struct ellm_attention attention;
    struct ellm_activate activate;
    struct ellm_select select;
    struct ellm_sample sample;
    struct ellm_score score;
  };
};

// Changes with this file: a caller who was written for another one must not go on.
#define ELLM_INTERFACE 3
ELLM_API int ellm_interface(void);
// The instruction sets this library has kernels for and this machine can run, best first, by
// commas.
ELLM_API const char *ellm_levels(void);
// How many threads compute, the caller one of them.
ELLM_API void ellm_threads(int count);
// With the level of that index among ellm_levels.
ELLM_API void ellm_run(int level, const struct ellm_op *ops, int64_t count);
// The same with `rows` rows in every operation, and these segments in attention.
ELLM_API void ellm_replay(int level, struct ellm_op *ops, int64_t count, int64_t rows,
                          struct ellm_segment *segments, int64_t segment_count);
// Rearranges a matrix in place, by way of a copy of 64 of its rows for each thread.
ELLM_API void ellm_pack(void *weight, int64_t rows, int64_t columns, int32_t dtype);
// How many threads compute now.
ELLM_API int ellm_thread_count(void);
// Bytes that attention over sequences of at most `longest` tokens needs.
ELLM_API int64_t ellm_attention_room(int64_t threads, int64_t kv_heads, int64_t group,
                                     int64_t width, int64_t longest);

#ifdef __cplusplus
}
#endif
