// The choice of a level.
#include "level.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ellm {
namespace {

#if defined(ELLM_AMX)

// Whether the processor has tiles and products of bfloat16, and the system keeps tiles.
bool has_tiles() {
  constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24, kKept = 3u << 17, kOsxsave = 1u << 27;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsxsave)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if ((d & (kBf16 | kTiles)) != (kBf16 | kTiles)) return false;
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kKept) == kKept;
}

// Linux keeps tiles only for processes that have asked.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}

// A product that crosses every edge, of whole numbers: exact in whatever order they are added.
bool multiplies(Run run) {
  constexpr int64_t kRows = 37, kInputs = 88, kOutputs = 80;
  const auto number = [](int64_t i) { return static_cast<int>(i * i % 7 % 3) - 1; };
  const auto narrow = [](int x) -> uint16_t { return x < 0 ? 0xbf80 : x > 0 ? 0x3f80 : 0; };
  std::vector<uint16_t> x(kRows * kInputs), weight(kOutputs * kInputs), out(kRows * kOutputs);
  for (size_t i = 0; i < x.size(); ++i) x[i] = narrow(number(i));
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = narrow(number(i + i / kInputs));
  ellm_pack(weight.data(), kOutputs, kInputs, ELLM_BFLOAT16);
  ellm_op op = {};
  op.kind = ELLM_LINEAR;
  op.dtype = ELLM_BFLOAT16;
  op.linear = {x.data(), weight.data(), nullptr,  out.data(), kRows,
               kInputs,  kOutputs,      kInputs, kOutputs};
  run(op);
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t output = 0; output < kOutputs; ++output) {
      int sum = 0;
      for (int64_t k = 0; k < kInputs; ++k) {
        const int64_t i = output * kInputs + k;
        sum += number(row * kInputs + k) * number(i + i / kInputs);
      }
      const uint32_t bits = static_cast<uint32_t>(out[row * kOutputs + output]) << 16;
      if (__builtin_bit_cast(float, bits) != static_cast<float>(sum)) return false;
    }
  return true;
}

#endif

std::vector<Level> runnable() {
  std::vector<Level> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  const bool bf16 = v4 && __builtin_cpu_supports("avx512bf16");
#if defined(ELLM_AMX_MODEL)
  if (bf16) found.push_back({"amx_model", amx_model::run_one});
#else
#if defined(ELLM_AMX)
  if (bf16 && has_tiles() && may_use_tiles() && multiplies(amx::run_one))
    found.push_back({"amx", amx::run_one});
#endif
  if (bf16) found.push_back({"avx512bf16", avx512bf16::run_one});
  if (v4) found.push_back({"avx512", avx512::run_one});
  if (v3) found.push_back({"avx2", avx2::run_one});
#endif
#endif
  found.push_back({"portable", portable::run_one});
  return found;
}

}  // namespace

const std::vector<Level> &levels() {
  static const std::vector<Level> found = runnable();
  return found;
}

}  // namespace ellm
