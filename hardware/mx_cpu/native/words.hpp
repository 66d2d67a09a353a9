// The nearest cast on 32 lanes of 16 bits, a block a register: twice the lanes of quantum.hpp, the same bits.
//
// A float32's upper half, its lowest bit set when anything was cut off (a sticky bit), still rounds correctly to the four
// significant bits or fewer of every MX float. Blocks with values at the ends of float32's range, and integers, are left
// to quantum.hpp.
#pragma once

#include "quantum.hpp"

#if defined(__AVX512BW__) && defined(__AVX512VBMI__)
#define MX_WORDS 1

namespace {

constexpr int LEAST_EXPONENT = 12;  // of the smallest normal binade: what lies 12 binades below it rounds to zero
constexpr int WORD_BLOCKS = 16;     // blocks whose scales are found together

struct WordRule {
  __m512i half{}, one_quantum{}, quantum_shift{}, binade_shift{}, max_code{}, sign_shift{}, sign{}, value_shift{};
  __m512i least_normal{}, subnormal{};
  int bits, emin, low = 0, high = 0;  // low .. high: scale codes whose blocks are taken
  bool fits;                          // else nothing of the above is meant

  // `smallest`, `largest`: exponents that nonzero results must stay within.
  explicit WordRule(const MxRule& r, int smallest = -126, int largest = 126)
      : bits(r.bits), emin(r.emin), fits(r.bits && !r.is_integer && r.mantissa_bits <= 3 && rounds_alike(r.offset)) {
    if (!fits) return;
    const int m = r.mantissa_bits, emax = ilogb_of(r.max);
    auto all = [](int v) { return _mm512_set1_epi16(static_cast<int16_t>(v)); };
    half = all((1 << (13 - m)) - 1);
    one_quantum = all(1 << (14 - m));
    quantum_shift = all(14 - m);
    binade_shift = all(m);
    max_code = all(r.max_code);
    sign_shift = all(16 - bits);
    sign = all(1 << (bits - 1));
    value_shift = all(7 - m);
    least_normal = all(1 << m);
    // From code to bfloat16, relative to the least normal binade: what a subnormal's own exponent makes of it.
    alignas(64) uint16_t table[32] = {};
    for (int c = 1; c < 1 << m; ++c) {
      const uint32_t own = bit_cast<uint32_t>(static_cast<float>(c)) >> 16;
      table[c] = static_cast<uint16_t>(own - ((127 + m - 1) << 7) - (c << (7 - m)));
    }
    subnormal = _mm512_load_si512(table);
    const int least = LEAST_EXPONENT - r.emin, finite = 127 + smallest + m - r.emin, under = 127 + largest - emax;
    low = least > finite ? least : finite;
    high = under < 254 ? under : 254;
  }

 private:
  static int ilogb_of(float v) { return static_cast<int>(bit_cast<uint32_t>(v) >> 23) - 127; }

  // Whether amax's cut mantissa with its sticky bit carries into the exponent exactly when the whole one does.
  static bool rounds_alike(int32_t offset) {
    const int32_t threshold = (1 << 23) - (offset & 0x7FFFFF);
    return (threshold & 0x1FFFE) == 0;
  }
};

MX_INLINE __m512i sticky(__m512i x) {
  const __m512i up = _mm512_add_epi32(x, _mm512_set1_epi32(0xFFFF));
  return _mm512_ternarylogic_epi32(x, up, _mm512_set1_epi32(0x10000), 0xF8);  // x | up & 0x10000
}

MX_INLINE __m512i upper_halves(__m512i a, __m512i b) {
  alignas(64) uint16_t index[32];
  for (int i = 0; i < 32; ++i) index[i] = static_cast<uint16_t>(2 * i + 1);
  return _mm512_permutex2var_epi16(a, _mm512_load_si512(index), b);
}

// Up to 32 elements (float32 or bfloat16), zeros past `count`.
MX_INLINE __m512i load_words(const void* source, int64_t first, int64_t count, int32_t type) {
  if (type == MX_BF16) {
    const uint16_t* p = static_cast<const uint16_t*>(source) + first;
    if (count >= BLOCK) return _mm512_loadu_si512(p);
    return _mm512_maskz_loadu_epi16(count > 0 ? static_cast<__mmask32>((1ull << count) - 1) : 0, p);
  }
  const float* p = static_cast<const float*>(source) + first;
  if (count >= BLOCK) return upper_halves(sticky(_mm512_loadu_si512(p)), sticky(_mm512_loadu_si512(p + LANES)));
  const uint32_t mask = count > 0 ? static_cast<uint32_t>((1ull << count) - 1) : 0;
  return upper_halves(sticky(_mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask), p)),
                      sticky(_mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask >> 16), p + LANES)));
}

MX_INLINE __m512i magnitudes(__m512i w) { return _mm512_and_si512(w, _mm512_set1_epi16(0x7FFF)); }

// The exponent words that round_words wants, from scale codes; a block of zeros takes any.
MX_INLINE vi binades(const Scales& s, const WordRule& r) { return max(s.code + r.emin, splat(LEAST_EXPONENT)); }

// Whether round_words may take these blocks.
MX_INLINE bool ordinary(const Scales& s, vi amax, const WordRule& r) {
  const vi outside = ((s.code < r.low) | (s.code > r.high)) & (amax != 0);
  return _mm512_movepi32_mask(bit_cast<__m512i>(outside)) == 0;
}

// Codes without sign. `binade`: biased exponent of the least normal binade, in every word.
MX_INLINE __m512i round_words(__m512i w, __m512i binade, const WordRule& r) {
  const __m512i e = _mm512_srli_epi16(magnitudes(w), 7);
  // the significand, leading bit at 14, moved down where it is subnormal
  const __m512i whole = _mm512_ternarylogic_epi32(_mm512_slli_epi16(w, 7), _mm512_set1_epi16(0x3F80),
                                                  _mm512_set1_epi16(0x4000), 0xEA);  // a & b | c
  const __m512i p = _mm512_srlv_epi16(whole, _mm512_subs_epu16(binade, e));
  const __mmask32 odd = _mm512_test_epi16_mask(p, r.one_quantum);
  __m512i sum = _mm512_add_epi16(p, r.half);
  sum = _mm512_mask_add_epi16(sum, odd, sum, _mm512_set1_epi16(1));
  const __m512i quanta = _mm512_srlv_epi16(sum, r.quantum_shift);
  const __m512i above = _mm512_sllv_epi16(_mm512_subs_epu16(e, binade), r.binade_shift);
  return _mm512_min_epu16(_mm512_add_epi16(quanta, above), r.max_code);
}

MX_INLINE __m512i with_sign(__m512i code, __m512i w, const WordRule& r) {
  return _mm512_ternarylogic_epi32(code, _mm512_srlv_epi16(w, r.sign_shift), r.sign, 0xF8);
}

// bfloat16 of the codes, with the signs of w.
MX_INLINE __m512i word_values(__m512i code, __m512i w, __m512i binade, const WordRule& r) {
  const __m512i base = _mm512_slli_epi16(_mm512_sub_epi16(binade, _mm512_set1_epi16(1)), 7);
  const __m512i own = _mm512_permutexvar_epi16(_mm512_min_epu16(code, r.least_normal), r.subnormal);
  const __m512i moved = _mm512_add_epi16(_mm512_sllv_epi16(code, r.value_shift), own);
  const __m512i v = _mm512_maskz_add_epi16(_mm512_test_epi16_mask(code, code), moved, base);
  return _mm512_ternarylogic_epi32(v, w, _mm512_set1_epi16(static_cast<int16_t>(0x8000)), 0xF8);
}

// One block's codes, a word each, to 4 * bits bytes at the bottom of a register.
MX_INLINE __m256i pack_words(__m512i code, int bits) {
  if (bits == 8) return _mm512_cvtepi16_epi8(code);
  if (bits == 4)
    return _mm256_castsi128_si256(_mm512_cvtepi32_epi8(_mm512_or_si512(code, _mm512_srli_epi32(code, 12))));
  const __m512i twelve = _mm512_or_si512(code, _mm512_srli_epi32(code, 10));
  const __m512i packed = _mm512_ternarylogic_epi64(twelve, _mm512_srli_epi64(twelve, 20), _mm512_set1_epi64(0xFFF), 0xE4);
  alignas(64) uint8_t index[64];
  for (int i = 0; i < 64; ++i) index[i] = static_cast<uint8_t>(i < 24 ? i / 3 * 8 + i % 3 : 0);
  return _mm512_castsi512_si256(_mm512_permutexvar_epi8(_mm512_load_si512(index), packed));
}

// Up to 16 blocks that lie along memory: words, scales, and whether round_words may take them all.
struct WordTile {
  alignas(64) uint16_t words[WORD_BLOCKS][BLOCK];
  alignas(64) uint8_t scale[WORD_BLOCKS];
  alignas(64) uint32_t binade[WORD_BLOCKS];  // twice the same word

  MX_INLINE bool read(WordTile& t, const void* source, int64_t first, int64_t count, int64_t blocks, int32_t type,
                      const Rule& rule, const WordRule& r) {
    vi m[WORD_BLOCKS];
    MX_UNROLL for (int b = 0; b < WORD_BLOCKS; ++b) {
      if (b < blocks) {
        const __m512i w = load_words(source, first + BLOCK * b, count - BLOCK * b, type);
        _mm512_store_si512(t.words[b], w);
        const __m512i magnitude = magnitudes(w);
        // the larger of two neighbours in a pair's upper word
        m[b] = bit_cast<vi>(_mm512_max_epu16(magnitude, _mm512_slli_epi32(magnitude, 16)));
      } else {
        m[b] = vi{};
      }
    }
    const vi amax = largest_of_each(m) & static_cast<int32_t>(0xFFFF0000u);
    const Scales s = make_scales(amax, rule);
    if (!ordinary(s, amax, r)) return false;
    store(t.scale, __builtin_convertvector(s.code, vb));
    store(t.binade, bit_cast<vu>(binades(s, r)) * 0x10001u);
    return true;
  }

  __attribute__((always_inline)) __m512i binades_of(int64_t b) const { return _mm512_set1_epi32(static_cast<int>(binade[b])); }
};

}  // namespace
#endif
