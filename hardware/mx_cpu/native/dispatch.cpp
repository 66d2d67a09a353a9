// Chooses a level by what the processor has, and exports the C interface.
#include "types.hpp"

#include <cstring>
#include <new>

#if defined(MX_X86)
#include <cpuid.h>
#endif
#if defined(MX_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define MX_EXPORT extern "C" __attribute__((visibility("default")))

extern const MxKernels mx_kernels_scalar;
#if defined(MX_X86)
extern const MxKernels mx_kernels_avx2;
extern const MxKernels mx_kernels_avx512;
extern const MxKernels mx_kernels_amx;
#endif

namespace {

const MxKernels* const LEVELS[] = {
    &mx_kernels_scalar,
#if defined(MX_X86)
    &mx_kernels_avx2,
    &mx_kernels_avx512,
    &mx_kernels_amx,
#endif
};
constexpr int COUNT = sizeof(LEVELS) / sizeof(LEVELS[0]);

#if defined(MX_X86)
// Linux hands out the tile registers when asked (arch/x86: ARCH_REQ_XCOMP_PERM, component 18, XTILEDATA).
bool tiles_granted() {
#if defined(__linux__)
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
  return false;
#endif
}
#endif

#if defined(MX_X86)
// What compilers name differently, or not at all, in __builtin_cpu_supports (Intel SDM, CPUID).
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && c >> 29 & 1;
}

bool has_bfloat16_tiles() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> 22 & 1 && d >> 24 & 1;
}
#endif

bool runs(int level) {
#if defined(MX_X86)
  __builtin_cpu_init();
  if (level == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (level == 2)
    return runs(1) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512bf16");
  if (level == 3) {
    static const bool granted = runs(2) && has_bfloat16_tiles() && tiles_granted();
    return granted;
  }
#endif
  return level == 0;
}

int best() {
  int level = COUNT - 1;
  while (!runs(level)) --level;
  return level;
}

int chosen = best();

constexpr int DONE = 0, OUT_OF_MEMORY = 1;

template <class F>
int status_of(F run) {
  try {
    run();
    return DONE;
  } catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
  }
}

}  // namespace

MX_EXPORT const char* mx_level() { return LEVELS[chosen]->name; }

// 0: done; 1: no such level here; 2: this processor cannot run it. Null chooses the best.
MX_EXPORT int mx_set_level(const char* name) {
  if (!name) {
    chosen = best();
    return 0;
  }
  for (int level = 0; level < COUNT; ++level) {
    if (std::strcmp(LEVELS[level]->name, name) != 0) continue;
    if (!runs(level)) return 2;
    chosen = level;
    return 0;
  }
  return 1;
}

// Kernels return 0, or 1 when there was no memory: the result is then undefined, and nothing else has changed.
MX_EXPORT int mx_cast(const MxCast* job) {
  return status_of([&] { LEVELS[chosen]->cast(*job); });
}

MX_EXPORT int mx_decode(const MxDecode* job) {
  return status_of([&] { LEVELS[chosen]->decode(*job); });
}

// y (rows, out) = q(x) (rows, in) W^T + bias, in x's type; bias may be null.
MX_EXPORT int mx_linear(const MxLinear* weight, const void* x, void* y, const void* bias, int64_t rows, int32_t type,
                        int32_t bias_type, int32_t threads) {
  return status_of([&] { LEVELS[chosen]->linear(*weight, x, y, bias, rows, type, bias_type, threads); });
}

// Whether any of `count` 8-bit codes is one that no cast makes: NaN, infinity, or INT8's -2.
MX_EXPORT int mx_has_special(const MxRule* rule, const uint8_t* codes, int64_t count) {
  const uint8_t mask = rule->is_integer ? 0xFF : 0x7F, limit = static_cast<uint8_t>(rule->max_code);
  for (int64_t start = 0; start < count; start += 4096) {
    const int64_t stop = start + 4096 < count ? start + 4096 : count;
    uint8_t found = 0;
    for (int64_t i = start; i < stop; ++i) {
      const uint8_t code = codes[i] & mask;
      found |= rule->is_integer ? code == 0x80 : code > limit;
    }
    if (found) return 1;
  }
  return 0;
}

// Hash of the sources that this library was made from.
MX_EXPORT const char* mx_sources() { return MX_SOURCE_HASH; }

// Layout check for the caller's mirror of the structs.
MX_EXPORT int64_t mx_sizes() { return sizeof(MxCast) * 1000000 + sizeof(MxDecode) * 1000 + sizeof(MxLinear); }
