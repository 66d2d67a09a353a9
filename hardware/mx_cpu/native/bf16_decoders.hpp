// Packed weights to bfloat16 by table look-up in registers, 128 elements (four blocks) at a time.
//
// The elements come out in an order of their own; activations are brought into the same order when they are cast.
// What is fixed is which lanes belong to which block: it is where the scales go.
#pragma once

#include "lanes.hpp"

namespace {

constexpr int64_t UNIT = 128;

struct Tables {
  alignas(64) uint16_t words[32];      // 4 bits: bfloat16 by code, twice
  alignas(64) uint8_t high[128], low[128];

  explicit Tables(const float* values, int bits) {
    for (int i = 0; i < 32; ++i) words[i] = bf16(values[i % (1 << (bits < 5 ? bits : 5))]);
    for (int i = 0; i < 128; ++i) {
      const uint16_t v = bf16(values[i % (1 << (bits < 7 ? bits : 7))]);
      high[i] = static_cast<uint8_t>(v >> 8);
      low[i] = static_cast<uint8_t>(v);
    }
  }

 private:
  static uint16_t bf16(float v) { return static_cast<uint16_t>(bit_cast<uint32_t>(v) >> 16); }
};

// 64 bytes of a packed row; with TAIL only the `left` ones that are there, then zeros.
template <bool TAIL>
MX_INLINE __m512i load_bytes(const uint8_t* p, int64_t left) {
  if constexpr (!TAIL) return _mm512_loadu_si512(p);
  const int64_t n = left < 0 ? 0 : least(left, 64);
  return _mm512_maskz_loadu_epi8(n == 64 ? ~0ull : (1ull << n) - 1, p);
}

// Byte or word index vectors for _mm512_shuffle_epi8, from "which block does this 128-bit lane belong to".
template <int BYTE_IN_ELEMENT, int ELEMENT>
MX_INLINE __m512i scale_index(const int* block_of_lane) {
  alignas(64) uint8_t index[64];
  for (int i = 0; i < 64; ++i)
    index[i] = i % ELEMENT == BYTE_IN_ELEMENT ? static_cast<uint8_t>(block_of_lane[i / 16]) : 0x80;
  return _mm512_load_si512(index);
}

// Word j of register i is element 4 * j + i.
struct Four {
  static constexpr int BITS = 4, SCALES = 1;  // one scale vector for all four registers
  static constexpr int LANE_BLOCK[1][4] = {{0, 1, 2, 3}};
  __m512i table;

  explicit Four(const Tables& t) : table(_mm512_load_si512(t.words)) {}

  MX_INLINE void arrange(const __m512i* e, __m512i* out) {
    alignas(64) uint16_t index[32];
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 32; ++j) index[j] = static_cast<uint16_t>((4 * (j % 16) + i) & 63);
      const __m512i at = _mm512_load_si512(index);
      const __m512i low = _mm512_permutex2var_epi16(e[0], at, e[1]), high = _mm512_permutex2var_epi16(e[2], at, e[3]);
      out[i] = _mm512_inserti64x4(low, _mm512_castsi512_si256(high), 1);
    }
  }

  // The elements' own order again: out[b] is block b.
  MX_INLINE void unarrange(const __m512i* w, __m512i* out) {
    __m512i r[4];
    for (int half = 0; half < 2; ++half) {
      const __m512i a = half ? _mm512_unpackhi_epi16(w[0], w[1]) : _mm512_unpacklo_epi16(w[0], w[1]);
      const __m512i b = half ? _mm512_unpackhi_epi16(w[2], w[3]) : _mm512_unpacklo_epi16(w[2], w[3]);
      r[2 * half] = _mm512_unpacklo_epi32(a, b);
      r[2 * half + 1] = _mm512_unpackhi_epi32(a, b);
    }
    const __m512i a = _mm512_shuffle_i32x4(r[0], r[1], 0x44), b = _mm512_shuffle_i32x4(r[0], r[1], 0xEE);
    const __m512i c = _mm512_shuffle_i32x4(r[2], r[3], 0x44), d = _mm512_shuffle_i32x4(r[2], r[3], 0xEE);
    out[0] = _mm512_shuffle_i32x4(a, c, 0x88);
    out[1] = _mm512_shuffle_i32x4(a, c, 0xDD);
    out[2] = _mm512_shuffle_i32x4(b, d, 0x88);
    out[3] = _mm512_shuffle_i32x4(b, d, 0xDD);
  }

  template <bool TAIL>
  __attribute__((always_inline)) void decode(const uint8_t* p, int64_t left, __m512i* w) const {
    const __m512i c = load_bytes<TAIL>(p, left);
    w[0] = _mm512_permutexvar_epi16(c, table);
    w[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(c, 4), table);
    w[2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(c, 8), table);
    w[3] = _mm512_permutexvar_epi16(_mm512_srli_epi16(c, 12), table);
  }
};

// Registers 2h and 2h + 1 hold elements 64h ..: the first and second eight of every sixteen.
struct ByByte {
  static constexpr int SCALES = 2;
  static constexpr int LANE_BLOCK[2][4] = {{0, 0, 1, 1}, {2, 2, 3, 3}};

  MX_INLINE void arrange(const __m512i* e, __m512i* out) {
    const __m512i first = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13), second = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
    for (int h = 0; h < 2; ++h) {
      out[2 * h] = _mm512_permutex2var_epi64(e[2 * h], first, e[2 * h + 1]);
      out[2 * h + 1] = _mm512_permutex2var_epi64(e[2 * h], second, e[2 * h + 1]);
    }
  }

  // The elements' own order again: out[b] is block b.
  MX_INLINE void unarrange(const __m512i* w, __m512i* out) {
    const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), odd = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (int h = 0; h < 2; ++h) {
      out[2 * h] = _mm512_permutex2var_epi64(w[2 * h], even, w[2 * h + 1]);
      out[2 * h + 1] = _mm512_permutex2var_epi64(w[2 * h], odd, w[2 * h + 1]);
    }
  }
};

struct Six : ByByte {
  static constexpr int BITS = 6;
  __m512i high, low, shifts, spread[2];

  explicit Six(const Tables& t) : high(_mm512_load_si512(t.high)), low(_mm512_load_si512(t.low)) {
    alignas(64) uint8_t index[64], shift[64];
    for (int i = 0; i < 64; ++i) {
      index[i] = static_cast<uint8_t>(i / 8 * 6 + (i % 8 < 6 ? i % 8 : 0));
      shift[i] = static_cast<uint8_t>(6 * (i % 8));
    }
    spread[0] = _mm512_load_si512(index);
    spread[1] = _mm512_add_epi8(spread[0], _mm512_set1_epi8(16));
    shifts = _mm512_load_si512(shift);
  }

  template <bool TAIL>
  __attribute__((always_inline)) void decode(const uint8_t* p, int64_t left, __m512i* w) const {
    MX_UNROLL for (int h = 0; h < 2; ++h) {
      // Bytes 48 .. 95 are the upper ones of a load that ends where they end: nothing past the row is read.
      const __m512i packed = _mm512_permutexvar_epi8(spread[h], load_bytes<TAIL>(p + 32 * h, left - 32 * h));
      const __m512i code = _mm512_multishift_epi64_epi8(shifts, packed);  // only the low six bits are looked at
      const __m512i hi = _mm512_permutexvar_epi8(code, high), lo = _mm512_permutexvar_epi8(code, low);
      w[2 * h] = _mm512_unpacklo_epi8(lo, hi);
      w[2 * h + 1] = _mm512_unpackhi_epi8(lo, hi);
    }
  }
};

template <bool INTEGER>
struct Eight : ByByte {
  static constexpr int BITS = 8;
  __m512i high[2], low[2];

  explicit Eight(const Tables& t)
      : high{_mm512_load_si512(t.high), _mm512_load_si512(t.high + 64)},
        low{_mm512_load_si512(t.low), _mm512_load_si512(t.low + 64)} {}

  template <bool TAIL>
  __attribute__((always_inline)) void decode(const uint8_t* p, int64_t left, __m512i* w) const {
    MX_UNROLL for (int h = 0; h < 2; ++h) {
      const __m512i c = load_bytes<TAIL>(p + 64 * h, left - 64 * h);
      const __m512i magnitude = INTEGER ? _mm512_abs_epi8(c) : c;  // only the low seven bits are looked at
      const __m512i lo = _mm512_permutex2var_epi8(low[0], magnitude, low[1]);
      __m512i hi = _mm512_permutex2var_epi8(high[0], magnitude, high[1]);
      hi = _mm512_ternarylogic_epi32(hi, c, _mm512_set1_epi8(static_cast<char>(0x80)), 0xF8);  // hi | c & 0x80
      w[2 * h] = _mm512_unpacklo_epi8(lo, hi);
      w[2 * h + 1] = _mm512_unpackhi_epi8(lo, hi);
    }
  }
};

}  // namespace
