// Packed blocks of 32 weights to bfloat16 with their scale inside, in the elements' own order: one register a block.
//
// Adding to a bfloat16's exponent would break zeros and subnormal elements, so what is added (or, for 4 bits, looked up)
// lies in tables by scale code; a weight uses few scales, so the lines in use stay in the first cache.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "lanes.hpp"

namespace {

constexpr int SCALE_CODES = 256;

// The bfloat16 of value * 2**(scale - 127); values that bfloat16 cannot hold normally do not occur (MxLinear::exact).
MX_INLINE uint16_t scaled_bf16(float value, int scale) {
  return static_cast<uint16_t>(bit_cast<uint32_t>(__builtin_ldexpf(value, scale - 127)) >> 16);
}

struct ScaleTables {
  alignas(64) uint16_t look_up[SCALE_CODES][32];
  uint32_t add[SCALE_CODES];  // the same 16 bits twice
};

// 16 bytes; the table has every code's scaled value, twice over.
struct FourBits {
  static constexpr int BYTES = 16;
  const ScaleTables& tables;
  __m512i spread, shifts;

  static void fill(const MxRule&, const float* values, ScaleTables& t) {
    for (int scale = 0; scale < SCALE_CODES; ++scale)
      for (int i = 0; i < 32; ++i) t.look_up[scale][i] = scaled_bf16(values[i % 16], scale);
  }

  FourBits(const MxRule&, const ScaleTables& t) : tables(t) {
    alignas(64) uint8_t index[64];
    for (int i = 0; i < 64; ++i) index[i] = i % 2 ? 0x80 : static_cast<uint8_t>(i / 4);
    spread = _mm512_load_si512(index);
    shifts = _mm512_set1_epi32(4 << 16);
  }

  MX_INLINE __m128i whole(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  MX_INLINE __m128i part(const uint8_t* p, int64_t bytes) {
    return _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << bytes) - 1), p);
  }

  __attribute__((always_inline)) __m512i block(__m128i packed, uint8_t scale) const {
    const __m512i bytes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(packed), spread);
    return _mm512_permutexvar_epi16(_mm512_srlv_epi16(bytes, shifts), _mm512_load_si512(tables.look_up[scale]));
  }
};

// Floats of 8 bits: exponent and mantissa move to bfloat16's place and a constant is added; where the exponent field is 0
// (subnormals, zero) the table's entry is added instead.
struct EightBits {
  static constexpr int BYTES = 32;
  const ScaleTables& tables;
  __m512i keep, exponent, shift;  // a shift by a register of counts is one operation, by a single count two

  // `below`: bits below the mantissa (6-bit elements are read as 8-bit ones with two zero bits below).
  static void fill_floats(const MxRule& rule, const float* values, int below, ScaleTables& t) {
    const int mantissa = rule.mantissa_bits + below, shift = 7 - mantissa;
    for (int scale = 0; scale < SCALE_CODES; ++scale) {
      const int bias = (scale - 127 + rule.emin - 1 + 127) * 128;
      t.add[scale] = static_cast<uint32_t>(bias & 0xFFFF) * 0x10001u;
      for (int i = 0; i < 32; ++i) {
        const int code = i & ((1 << mantissa) - 1);
        t.look_up[scale][i] = static_cast<uint16_t>(scaled_bf16(values[code >> below], scale) - (code << shift));
      }
    }
  }
  static void fill(const MxRule& rule, const float* values, ScaleTables& t) { fill_floats(rule, values, 0, t); }

  EightBits(const MxRule& rule, const ScaleTables& t, int below = 0) : tables(t) {
    const int mantissa = rule.mantissa_bits + below;
    shift = _mm512_set1_epi16(static_cast<int16_t>(7 - mantissa));
    keep = _mm512_set1_epi16(static_cast<int16_t>(0x8000 | (0x7F << (7 - mantissa))));
    exponent = _mm512_set1_epi16(static_cast<int16_t>((0x7F << (7 - mantissa)) & ~0x7F));
  }

  MX_INLINE __m256i whole(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  MX_INLINE __m256i part(const uint8_t* p, int64_t bytes) {
    return _mm256_maskz_loadu_epi8(static_cast<__mmask32>((1ull << bytes) - 1), p);
  }

  __attribute__((always_inline)) __m512i block(__m256i codes, uint8_t scale) const {
    const __m512i moved = _mm512_and_si512(_mm512_sllv_epi16(_mm512_cvtepi8_epi16(codes), shift), keep);
    const __mmask32 special = _mm512_testn_epi16_mask(moved, exponent);
    const __m512i table = _mm512_load_si512(tables.look_up[scale]);
    const __m512i add = _mm512_mask_permutexvar_epi16(_mm512_set1_epi32(static_cast<int>(tables.add[scale])), special,
                                                      _mm512_srlv_epi16(moved, shift), table);
    return _mm512_add_epi16(moved, add);
  }
};

// 24 bytes, brought to one byte an element.
struct SixBits : EightBits {
  static constexpr int BYTES = 24;
  __m256i spread, offsets;

  static void fill(const MxRule& rule, const float* values, ScaleTables& t) { fill_floats(rule, values, 2, t); }

  SixBits(const MxRule& rule, const ScaleTables& t) : EightBits(rule, t, 2) {
    alignas(32) uint8_t index[32], offset[32];
    for (int i = 0; i < 32; ++i) {
      index[i] = static_cast<uint8_t>(i / 8 * 6 + (i % 8 < 6 ? i % 8 : 0));
      offset[i] = static_cast<uint8_t>((6 * (i % 8) + 62) % 64);
    }
    spread = _mm256_load_si256(reinterpret_cast<const __m256i*>(index));
    offsets = _mm256_load_si256(reinterpret_cast<const __m256i*>(offset));
  }

  MX_INLINE __m256i whole(const uint8_t* p) { return part(p, BYTES); }

  __attribute__((always_inline)) __m512i block(__m256i packed, uint8_t scale) const {
    const __m256i codes = _mm256_multishift_epi64_epi8(offsets, _mm256_permutexvar_epi8(spread, packed));
    return EightBits::block(_mm256_and_si256(codes, _mm256_set1_epi8(static_cast<char>(0xFC))), scale);
  }
};

// Two's complement integers of 8 bits, times a power of two.
struct Integers {
  static constexpr int BYTES = 32;
  float unit;

  static void fill(const MxRule&, const float*, ScaleTables&) {}

  Integers(const MxRule& rule, const ScaleTables&) : unit(__builtin_ldexpf(1.0f, rule.emin - rule.mantissa_bits)) {}

  MX_INLINE __m256i whole(const uint8_t* p) { return EightBits::whole(p); }
  MX_INLINE __m256i part(const uint8_t* p, int64_t bytes) { return EightBits::part(p, bytes); }

  __attribute__((always_inline)) __m512i block(__m256i codes, uint8_t scale) const {
    const __m512 by = _mm512_set1_ps(unit * bit_cast<float>(scale ? static_cast<uint32_t>(scale) << 23 : 0x00400000u));
    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(codes)));
    const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(codes, 1)));
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, by), _mm512_mul_ps(low, by)));
  }
};

// Tables by scale for one element type, made at its first use and kept for good.
template <class D>
const ScaleTables& scale_tables(const MxRule& rule, const float* values) {
  struct Made {
    int32_t mantissa_bits, emin;
    ScaleTables tables;
  };
  static std::mutex lock;
  static std::vector<std::unique_ptr<Made>> made;
  const std::lock_guard<std::mutex> held(lock);
  for (const auto& one : made)
    if (one->mantissa_bits == rule.mantissa_bits && one->emin == rule.emin) return one->tables;
  made.emplace_back(new Made{rule.mantissa_bits, rule.emin, {}});
  D::fill(rule, values, made.back()->tables);
  return made.back()->tables;
}

}  // namespace
