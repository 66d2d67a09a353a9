// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011); counter layout as mx_plugin/formats/philox.py defines it.
#pragma once

#include "lanes.hpp"

namespace {

constexpr uint32_t PHILOX_M0 = 0xD2511F53u, PHILOX_M1 = 0xCD9E8D57u, PHILOX_W0 = 0x9E3779B9u, PHILOX_W1 = 0xBB67AE85u;
constexpr uint32_t SIGNS_DOMAIN = 1u << 31;

MX_INLINE void multiply(vu x, uint32_t by, vu& high, vu& low) {
#if defined(__AVX512F__)
  const __m512i a = bit_cast<__m512i>(x), m = _mm512_set1_epi32(static_cast<int>(by));
  const __m512i even = _mm512_mul_epu32(a, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), m);
  low = bit_cast<vu>(_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32)));
  high = bit_cast<vu>(_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd));
#else
  for (int i = 0; i < LANES; ++i) {
    const uint64_t wide = static_cast<uint64_t>(x[i]) * by;
    high[i] = static_cast<uint32_t>(wide >> 32);
    low[i] = static_cast<uint32_t>(wide);
  }
#endif
}

// Words 4 * group .. 4 * group + 63 of the key, into words[64].
MX_INLINE void philox16(const MxKey& key, uint32_t domain, uint64_t group, uint32_t* words) {
  vu c0, c1;
  for (int i = 0; i < LANES; ++i) {
    c0[i] = static_cast<uint32_t>(group + i);
    c1[i] = static_cast<uint32_t>((group + i) >> 32);
  }
  vu c2 = vu{} + key.step, c3 = vu{} + (key.call | domain);
  uint32_t k0 = key.seed, k1 = key.stream;
  for (int round = 0; round < 10; ++round) {
    vu high0, low0, high1, low1;
    multiply(c0, PHILOX_M0, high0, low0);
    multiply(c2, PHILOX_M1, high1, low1);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += PHILOX_W0;
    k1 += PHILOX_W1;
  }
  const vu c[4] = {c0, c1, c2, c3};
  for (int i = 0; i < LANES; ++i)
    for (int j = 0; j < 4; ++j) words[4 * i + j] = c[j][i];
}

// Thresholds ((word >> 8) + 1) * 2**-24 of elements first .. first + count - 1; `out` has room for count + 128.
// Returns where the first one lies.
MX_INLINE const float* thresholds(const MxKey& key, uint64_t first, int64_t count, float* out) {
  const uint64_t group = first / 4, skip = first % 4;
  for (int64_t done = 0; done < static_cast<int64_t>(skip) + count; done += 64) {
    alignas(64) uint32_t words[64];
    philox16(key, 0, group + static_cast<uint64_t>(done / 4), words);
    for (int j = 0; j < 64; j += LANES) {
      const vi drawn = bit_cast<vi>((load<vu>(words + j) >> 8) + 1u);
      store(out + done + j, __builtin_convertvector(drawn, vf) * 0x1p-24f);
    }
  }
  return out + skip;
}

// 32 signs, one bit per position, of positions 32 * block ..: a set bit means -1.
MX_INLINE uint32_t sign_bits(const MxKey& key, uint64_t block) {
  alignas(64) uint32_t words[64];
  philox16(key, SIGNS_DOMAIN, block / 4, words);
  return words[block % 4];
}

}  // namespace
