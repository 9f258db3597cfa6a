// What the machine can do: bytes read from memory and bfloat16 arithmetic, a second.
//     limits THREADS   ->   {"read": bytes, "arithmetic": operations, "unit": "avx512bf16"}
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 7, STREAMS = 8 };
static const size_t kBytes = (size_t)1 << 30;
static const long kLoops = 2000000;

struct share {
  const char *memory;
  size_t bytes;
  long loops;
  double result;
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

// Several streams, asked for 2 KB ahead.
static void *read_share(void *argument) {
  struct share *s = argument;
  const size_t part = s->bytes / STREAMS / 64 * 64;
  uint64_t sums[STREAMS][8] = {{0}};
  for (size_t i = 0; i < part; i += 64)
    for (int k = 0; k < STREAMS; ++k) {
      const uint64_t *at = (const uint64_t *)(s->memory + k * part + i);
      __builtin_prefetch((const char *)at + 2048);
      for (int w = 0; w < 8; ++w) sums[k][w] += at[w];
    }
  for (int k = 0; k < STREAMS; ++k)
    for (int w = 0; w < 8; ++w) s->result += sums[k][w];
  return NULL;
}

#if defined(__AMX_BF16__)
static const char *kUnit = "amx";
static void *multiply_share(void *argument) {
  struct share *s = argument;
  struct {
    uint8_t palette, row, zero[14];
    uint16_t width[16];
    uint8_t rows[16];
  } config __attribute__((aligned(64))) = {.palette = 1};
  for (int t = 0; t < 8; ++t) config.width[t] = 64, config.rows[t] = 16;
  __asm__ volatile("" ::"r"(&config) : "memory");
  _tile_loadconfig(&config);
  for (long i = 0; i < s->loops / 16; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return NULL;
}
static double operations(long loops) { return loops / 16 * 4.0 * 16 * 16 * 32 * 2; }
#elif defined(__AVX512BF16__)
static const char *kUnit = "avx512bf16";
static void *multiply_share(void *argument) {
  struct share *s = argument;
  __m512 sums[16];
#pragma GCC unroll 16
  for (int k = 0; k < 16; ++k) sums[k] = _mm512_setzero_ps();
  const __m512bh a = (__m512bh)_mm512_set1_epi32(0x3f803f80), b = a;
  for (long i = 0; i < s->loops; ++i)
#pragma GCC unroll 16
    for (int k = 0; k < 16; ++k) {
      sums[k] = _mm512_dpbf16_ps(sums[k], a, b);
      __asm__ volatile("" : "+v"(sums[k]));
    }
#pragma GCC unroll 16
  for (int k = 0; k < 16; ++k) s->result += _mm512_reduce_add_ps(sums[k]);
  return NULL;
}
static double operations(long loops) { return loops * 16.0 * 32 * 2; }
#else
static const char *kUnit = "float32";
typedef float vector __attribute__((vector_size(32)));
static void *multiply_share(void *argument) {
  struct share *s = argument;
  vector sums[12], a;
  memset(sums, 0, sizeof sums);
  for (int w = 0; w < 8; ++w) a[w] = 1;
  for (long i = 0; i < s->loops; ++i)
#pragma GCC unroll 12
    for (int k = 0; k < 12; ++k) {
      sums[k] = sums[k] + a * a;
      __asm__ volatile("" : "+x"(sums[k]));
    }
#pragma GCC unroll 12
  for (int k = 0; k < 12; ++k) s->result += sums[k][0];
  return NULL;
}
static double operations(long loops) { return loops * 12.0 * 8 * 2; }
#endif

// The best of some rounds, in seconds.
static double best(void *(*work)(void *), struct share *shares, int threads) {
  double least = 1e9;
  pthread_t *running = malloc(threads * sizeof *running);
  for (int round = 0; round < ROUNDS; ++round) {
    const double start = now();
    for (int t = 0; t < threads; ++t) pthread_create(&running[t], NULL, work, &shares[t]);
    for (int t = 0; t < threads; ++t) pthread_join(running[t], NULL);
    const double took = now() - start;
    if (took < least) least = took;
  }
  free(running);
  return least;
}

int main(int count, char **words) {
  const int threads = count > 1 ? atoi(words[1]) : 1;
#if defined(__AMX_BF16__)
  syscall(SYS_arch_prctl, 0x1023, 18);
#endif
  char *memory = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  madvise(memory, kBytes, MADV_HUGEPAGE);
  memset(memory, 1, kBytes);
  struct share *shares = calloc(threads, sizeof *shares);
  for (int t = 0; t < threads; ++t)
    shares[t] = (struct share){memory + kBytes / threads * t, kBytes / threads, kLoops, 0};
  const double read = best(read_share, shares, threads);
  const double multiplied = best(multiply_share, shares, threads);
  double seen = 0;
  for (int t = 0; t < threads; ++t) seen += shares[t].result;
  if (seen == 0.5) return 1;  // so that nothing is left out
  printf("{\"read\": %.4g, \"arithmetic\": %.4g, \"unit\": \"%s\"}\n", kBytes / read,
         threads * operations(kLoops) / multiplied, kUnit);
  return 0;
}
