// Sixteen lanes of float or integer, in the compiler's portable vectors: the same source on every level.
// Everything here has internal linkage: each level compiles its own copy with its own instructions.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "types.hpp"

// Small loops over registers: unrolled early, so that arrays of registers stay in registers.
#define MX_UNROLL _Pragma("GCC unroll 16")
#define MX_INLINE static inline __attribute__((always_inline, unused))

namespace {

constexpr int64_t BLOCK = 32;
constexpr int LANES = 16;

using vf = float __attribute__((vector_size(64), may_alias));
using vi = int32_t __attribute__((vector_size(64), may_alias));
using vu = uint32_t __attribute__((vector_size(64), may_alias));
using vh = uint16_t __attribute__((vector_size(32), may_alias));
using vb = uint8_t __attribute__((vector_size(16), may_alias));

template <class To, class From>
MX_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <class V>
MX_INLINE V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <class V>
MX_INLINE void store(void* p, const V& v) {
  std::memcpy(p, &v, sizeof(v));
}

MX_INLINE vf as_float(vi v) { return bit_cast<vf>(v); }
MX_INLINE vi as_int(vf v) { return bit_cast<vi>(v); }
MX_INLINE vf splat(float x) { return vf{} + x; }
MX_INLINE vi splat(int32_t x) { return vi{} + x; }
MX_INLINE vi max(vi a, vi b) { return a > b ? a : b; }
MX_INLINE vi min(vi a, vi b) { return a < b ? a : b; }

MX_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
MX_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// float16 by hand, where the processor has no conversion (IEEE 754, nearest even).
MX_INLINE float half_to_float(uint16_t h) {
  const uint32_t magnitude = h & 0x7FFFu, sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  uint32_t bits;
  if (magnitude >= 0x7C00u) {
    bits = magnitude << 13 | 0x7F800000u;
  } else {
    // exponent field as it stands, then scaled by 2**112: exact, subnormals included
    bits = bit_cast<uint32_t>(bit_cast<float>(magnitude << 13) * 0x1p112f);
  }
  return bit_cast<float>(bits | sign);
}

MX_INLINE uint16_t float_to_half(float f) {
  const uint32_t bits = bit_cast<uint32_t>(f), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);
  if (magnitude < 0x38800000u) {
    // subnormal: adding 0.5 leaves the wanted bits, rounded, at the bottom
    return static_cast<uint16_t>(sign | (bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3F000000u));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u)) >> 13));
}

MX_INLINE float bf16_to_float(uint16_t b) { return bit_cast<float>(static_cast<uint32_t>(b) << 16); }

MX_INLINE uint16_t float_to_bf16(float f) {
  const uint32_t bits = bit_cast<uint32_t>(f);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FC0u;
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

MX_INLINE vh to_bf16(vf v) {
  const vu bits = bit_cast<vu>(v);
  const vu rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  const vu nan = vu{} + 0x7FC0u;
  return __builtin_convertvector((bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded, vh);
}

MX_INLINE vf from_bf16(vh v) { return bit_cast<vf>(__builtin_convertvector(v, vu) << 16); }

MX_INLINE vf from_half(vh v) {
#if defined(__AVX512F__)
  return bit_cast<vf>(_mm512_cvtph_ps(bit_cast<__m256i>(v)));
#elif defined(__F16C__)
  vf out;
  __m128i part[2];
  std::memcpy(part, &v, 32);
  for (int i = 0; i < 2; ++i) _mm256_storeu_ps(reinterpret_cast<float*>(&out) + 8 * i, _mm256_cvtph_ps(part[i]));
  return out;
#else
  vf out;
  for (int i = 0; i < LANES; ++i) out[i] = half_to_float(v[i]);
  return out;
#endif
}

MX_INLINE vh to_half(vf v) {
#if defined(__AVX512F__)
  return bit_cast<vh>(_mm512_cvtps_ph(bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  __m128i part[2];
  float in[LANES];
  std::memcpy(in, &v, 64);
  for (int i = 0; i < 2; ++i) part[i] = _mm256_cvtps_ph(_mm256_loadu_ps(in + 8 * i), _MM_FROUND_TO_NEAREST_INT);
  vh out;
  std::memcpy(&out, part, 32);
  return out;
#else
  vh out;
  for (int i = 0; i < LANES; ++i) out[i] = float_to_half(v[i]);
  return out;
#endif
}

MX_INLINE int64_t width(int32_t type) { return type == MX_F32 ? 4 : 2; }

MX_INLINE vf load_values(const void* p, int64_t index, int32_t type) {
  if (type == MX_F32) return load<vf>(static_cast<const float*>(p) + index);
  const vh v = load<vh>(static_cast<const uint16_t*>(p) + index);
  return type == MX_BF16 ? from_bf16(v) : from_half(v);
}

MX_INLINE float load_value(const void* p, int64_t index, int32_t type) {
  if (type == MX_F32) return static_cast<const float*>(p)[index];
  const uint16_t v = static_cast<const uint16_t*>(p)[index];
  return type == MX_BF16 ? bf16_to_float(v) : half_to_float(v);
}

MX_INLINE void store_values(void* p, int64_t index, int32_t type, vf v) {
  if (type == MX_F32) {
    store(static_cast<float*>(p) + index, v);
  } else {
    store(static_cast<uint16_t*>(p) + index, type == MX_BF16 ? to_bf16(v) : to_half(v));
  }
}

MX_INLINE void store_value(void* p, int64_t index, int32_t type, float v) {
  if (type == MX_F32) {
    static_cast<float*>(p)[index] = v;
  } else {
    static_cast<uint16_t*>(p)[index] = type == MX_BF16 ? float_to_bf16(v) : float_to_half(v);
  }
}

// Past the caches: for results that are too large to stay in them. `p + index` must be 64-byte aligned (32 for 16 bits).
MX_INLINE void stream_values(void* p, int64_t index, int32_t type, vf v) {
#if defined(__AVX512F__)
  if (type == MX_F32) {
    _mm512_stream_ps(static_cast<float*>(p) + index, bit_cast<__m512>(v));
  } else {
    const vh narrow = type == MX_BF16 ? to_bf16(v) : to_half(v);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(static_cast<uint16_t*>(p) + index), bit_cast<__m256i>(narrow));
  }
#else
  store_values(p, index, type, v);
#endif
}

}  // namespace
