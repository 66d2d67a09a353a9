// Tiles and strips of a cast (cast.hpp) on words. Each returns false, with nothing written, for blocks that words.hpp
// does not take.
#pragma once

#include "packing.hpp"
#include "words.hpp"

#if defined(MX_WORDS)

namespace {

constexpr int64_t AHEAD = 8 * WORD_BLOCKS;  // blocks
constexpr int HINT = 2;                     // into the second-level cache

// Whether a job is one for words.
MX_INLINE bool takes_words(const MxCast& c, const WordRule& r) {
  return r.fits && !c.hadamard.on && c.source_type != MX_F16 && (c.elements || c.values_type != MX_F16);
}

// Up to 32 values from words, at `p + index`.
MX_INLINE void store_words(void* p, int64_t index, int64_t count, int32_t type, bool streams, __m512i v) {
  const __mmask32 mask = count >= BLOCK ? ~0u : count > 0 ? static_cast<__mmask32>((1ull << count) - 1) : 0;
  if (type == MX_BF16) {
    uint16_t* to = static_cast<uint16_t*>(p) + index;
    if (streams) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to), v);
    } else {
      _mm512_mask_storeu_epi16(to, mask, v);
    }
    return;
  }
  float* to = static_cast<float*>(p) + index;
  const __m512i low = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(v)), 16);
  const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(v, 1)), 16);
  if (streams) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), low);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + LANES), high);
  } else {
    _mm512_mask_storeu_epi32(to, static_cast<__mmask16>(mask), low);
    _mm512_mask_storeu_epi32(to + LANES, static_cast<__mmask16>(mask >> 16), high);
  }
}

// `count` elements along memory, in `blocks` blocks: from `first` of the source to `to` of the values, or to packed rows.
MX_INLINE bool cast_word_tile(const MxCast& c, const Rule& rule, const WordRule& r, int64_t first, int64_t count,
                              int64_t blocks, int64_t to, bool streams, uint8_t* elements, int64_t bytes_left,
                              uint8_t* scales) {
  WordTile t;
  if (!WordTile::read(t, c.source, first, count, blocks, c.source_type, rule, r)) return false;
  // Asked for between the blocks, a few lines at a time: the processor does not look ahead over a whole tile's work by
  // itself, and many requests at once would wait for each other.
  const int64_t block_size = BLOCK * width(c.source_type);
  const char* ahead = static_cast<const char*>(c.source) + first * width(c.source_type) + AHEAD * block_size;
  if (!elements) {
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t line = 0; line < block_size; line += 64) __builtin_prefetch(ahead + b * block_size + line, 0, HINT);
      const __m512i w = _mm512_load_si512(t.words[b]), binade = t.binades_of(b);
      const __m512i v = word_values(round_words(w, binade, r), w, binade, r);
      store_words(c.values, to + b * BLOCK, count - b * BLOCK, c.values_type, streams, v);
    }
    return true;
  }
  std::memcpy(scales, t.scale, static_cast<size_t>(blocks));
  const int64_t block_bytes = 4 * r.bits;
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t line = 0; line < block_size; line += 64) __builtin_prefetch(ahead + b * block_size + line, 0, HINT);
    const __m512i w = _mm512_load_si512(t.words[b]);
    const __m256i packed = pack_words(with_sign(round_words(w, t.binades_of(b), r), w, r), r.bits);
    const int64_t bytes = least(bytes_left - b * block_bytes, block_bytes);
    uint8_t* out = elements + b * block_bytes;
    if (bytes == 32) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), packed);
    } else if (bytes == 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(packed));
    } else {
      _mm256_mask_storeu_epi8(out, static_cast<__mmask32>((1ull << bytes) - 1), packed);
    }
  }
  return true;
}

// 32 positions, `valid` of them there, by up to 32 columns; the values keep their place, codes, a byte each, go to
// codes[32][STRIP].
MX_INLINE bool cast_word_strip(const MxCast& c, const Rule& rule, const WordRule& r, int64_t first, int64_t valid,
                               int64_t columns, bool streams, uint8_t* codes, uint8_t* scales) {
  alignas(64) uint16_t words[BLOCK][BLOCK];
  __m512i amax = _mm512_setzero_si512();
  const int64_t next = BLOCK * c.after * width(c.source_type);  // packed blocks of one column are made one after the other
  for (int64_t i = 0; i < valid; ++i) {
    const char* row = static_cast<const char*>(c.source) + (first + i * c.after) * width(c.source_type);
    if (codes)
      for (int64_t line = 0; line < BLOCK * width(c.source_type); line += 64) __builtin_prefetch(row + next + line, 0, HINT);
    const __m512i w = load_words(c.source, first + i * c.after, columns, c.source_type);
    _mm512_store_si512(words[i], w);
    amax = _mm512_max_epu16(amax, magnitudes(w));
  }
  __m256i narrow[2];
  for (int h = 0; h < 2; ++h) {
    const __m256i half = h ? _mm512_extracti64x4_epi64(amax, 1) : _mm512_castsi512_si256(amax);
    const vi bits = bit_cast<vi>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    const Scales s = make_scales(bits, rule);
    if (!ordinary(s, bits, r)) return false;
    if (codes) store(scales + LANES * h, __builtin_convertvector(s.code, vb));
    narrow[h] = _mm512_cvtepi32_epi16(bit_cast<__m512i>(binades(s, r)));
  }
  const __m512i binade = _mm512_inserti64x4(_mm512_castsi256_si512(narrow[0]), narrow[1], 1);
  for (int64_t i = 0; i < valid; ++i) {
    const __m512i w = _mm512_load_si512(words[i]), code = round_words(w, binade, r);
    if (codes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i * STRIP), _mm512_cvtepi16_epi8(with_sign(code, w, r)));
    } else {
      store_words(c.values, first + i * c.after, columns, c.values_type, streams, word_values(code, w, binade, r));
    }
  }
  if (codes)
    for (int64_t i = valid; i < BLOCK; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i * STRIP), __m256i{});
  return true;
}

}  // namespace
#endif
