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

constexpr int64_t DRAWN = 4 * LANES;  // words of one run of LANES counters

// Words 4 * groups[n] .. 4 * groups[n] + 63 of the key, into words[n][64]. A round waits for its products, so that several
// runs at once take hardly longer than one.
template <int N>
MX_INLINE void philox(const MxKey& key, uint32_t domain, const uint64_t* groups, uint32_t (*words)[DRAWN]) {
  vu c[N][4];
  MX_UNROLL for (int n = 0; n < N; ++n) {
    // Lane i counts for group 4 * (i % 4) + i / 4: the four outputs then interleave within 128 bits only.
    const vu lane = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    const vu low = lane + static_cast<uint32_t>(groups[n]);
    const vu carried = bit_cast<vu>(low < lane) & 1u;
    c[n][0] = low;
    c[n][1] = carried + static_cast<uint32_t>(groups[n] >> 32);
    c[n][2] = vu{} + key.step;
    c[n][3] = vu{} + (key.call | domain);
  }
  uint32_t k0 = key.seed, k1 = key.stream;
  for (int round = 0; round < 10; ++round) {
    MX_UNROLL for (int n = 0; n < N; ++n) {
      vu high0, low0, high1, low1;
      multiply(c[n][0], PHILOX_M0, high0, low0);
      multiply(c[n][2], PHILOX_M1, high1, low1);
      c[n][0] = high1 ^ c[n][1] ^ k0;
      c[n][1] = low1;
      c[n][2] = high0 ^ c[n][3] ^ k1;
      c[n][3] = low0;
    }
    k0 += PHILOX_W0;
    k1 += PHILOX_W1;
  }
  MX_UNROLL for (int n = 0; n < N; ++n) {
    vu pair[4];
    MX_UNROLL for (int h = 0; h < 2; ++h) {
      const vu x = c[n][2 * h], y = c[n][2 * h + 1];
      pair[h] = __builtin_shufflevector(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
      pair[h + 2] = __builtin_shufflevector(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    }
    MX_UNROLL for (int h = 0; h < 2; ++h) {
      const vu x = pair[2 * h], y = pair[2 * h + 1];
      store(words[n] + 2 * h * LANES, __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29));
      store(words[n] + (2 * h + 1) * LANES, __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31));
    }
  }
}

constexpr int RUNS = 4;  // runs drawn at once

// Thresholds ((word >> 8) + 1) * 2**-24 of N runs of words, to out[n][64].
template <int N>
MX_INLINE void draw_thresholds(const MxKey& key, const uint64_t* groups, float (*out)[DRAWN]) {
  alignas(64) uint32_t words[N][DRAWN];
  philox<N>(key, 0, groups, words);
  for (int n = 0; n < N; ++n)
    for (int64_t j = 0; j < DRAWN; j += LANES) {
      const vi drawn = bit_cast<vi>((load<vu>(words[n] + j) >> 8) + 1u);
      store(out[n] + j, __builtin_convertvector(drawn, vf) * 0x1p-24f);
    }
}

constexpr int64_t DRAWN_ROOM = (RUNS + 1) * DRAWN;  // what `thresholds` may write beyond `count`

// Thresholds of elements first .. first + count - 1. Returns where the first one lies.
MX_INLINE const float* thresholds(const MxKey& key, uint64_t first, int64_t count, float* out) {
  const uint64_t group = first / 4, skip = first % 4;
  for (int64_t done = 0; done < static_cast<int64_t>(skip) + count; done += RUNS * DRAWN) {
    uint64_t groups[RUNS];
    for (int n = 0; n < RUNS; ++n) groups[n] = group + static_cast<uint64_t>(done / 4 + n * LANES);
    draw_thresholds<RUNS>(key, groups, reinterpret_cast<float(*)[DRAWN]>(out + done));
  }
  return out + skip;
}

// Thresholds of 64 elements of each of the next rows, `stride` elements apart, the first at `first`: where they lie, and
// for how many rows. `out` has room for RUNS runs.
MX_INLINE int row_thresholds(const MxKey& key, uint64_t first, uint64_t stride, float* out, const float** from) {
  const int each = first % 4 == 0 && stride % 4 == 0 ? 1 : 2;  // runs for 64 elements that start within a group
  uint64_t groups[RUNS];
  for (int n = 0; n < RUNS; ++n) {
    const uint64_t at = first + static_cast<uint64_t>(n / each) * stride;
    groups[n] = at / 4 + static_cast<uint64_t>(n % each * LANES);
    if (n % each == 0) from[n / each] = out + n * DRAWN + at % 4;
  }
  draw_thresholds<RUNS>(key, groups, reinterpret_cast<float(*)[DRAWN]>(out));
  return RUNS / each;
}

// 32 signs, one bit per position, of positions 32 * block ..: a set bit means -1.
MX_INLINE uint32_t sign_bits(const MxKey& key, uint64_t block) {
  alignas(64) uint32_t words[1][DRAWN];
  const uint64_t group = block / 4;
  philox<1>(key, SIGNS_DOMAIN, &group, words);
  return words[0][block % 4];
}

}  // namespace
