// Activations as the bfloat16 products read them: cast on the fly, in the elements' own order.
//
// Exact operands: MX elements, and activations away from the ends of float32's range, are exact in bfloat16; an
// unquantised float32 (float16) activation is the exact sum of three (two) bfloat16 numbers, its planes.
#pragma once

#include "cast.hpp"

namespace {

// Magnitudes whose products stay normal: weights are no smaller either (native_weight.py), or `exact` is set.
constexpr int SMALLEST_EXPONENT = -63, LARGEST_EXPONENT = 100;
constexpr int32_t SMALLEST = (127 + SMALLEST_EXPONENT) << 23, LARGEST = (127 + LARGEST_EXPONENT) << 23;
constexpr int MAX_PLANES = 3;

MX_INLINE int planes_of(const MxLinear& w, int32_t type) {
  return w.quantised || type == MX_BF16 ? 1 : type == MX_F16 ? 2 : MAX_PLANES;
}

constexpr int64_t BYTE_ROWS = 4;  // with more activation rows products by bfloat16 are as fast

// Whether linear_vnni.hpp takes these operands.
MX_INLINE bool multiplies_bytes(const MxLinear& w, int64_t rows) {
  return rows <= BYTE_ROWS && w.quantised && !w.exact && w.activation_rule.is_integer &&
         (w.weight_rule.is_integer || w.weight_rule.bits == 4);
}

// How a linear layer casts its activations.
struct ActivationRule {
  Rule rule;
  WordRule words;
  explicit ActivationRule(const MxLinear& w)
      : rule(w.activation_rule), words(w.activation_rule, SMALLEST_EXPONENT, LARGEST_EXPONENT) {}
};

// Elements k .. k + room of one row (zeros past `in`; room a multiple of 32, at most TILE), plane by plane to
// `to` + plane * stride. False when a magnitude lies outside the range above.
MX_INLINE bool activation_tile(const MxLinear& w, const ActivationRule& by, const void* x, int64_t row, int64_t k, int64_t room,
                               int32_t type, int planes, int64_t stride, uint16_t* to) {
  const Rule& rule = by.rule;
  const WordRule& words = by.words;
  if (words.fits && w.quantised && type != MX_F16) {
    WordTile t;
    const int64_t blocks = room / BLOCK;
    if (WordTile::read(t, x, row * w.in + k, w.in - k, blocks, type, rule, words)) {
      for (int64_t b = 0; b < blocks; ++b) {
        const __m512i v = _mm512_load_si512(t.words[b]), binade = t.binades_of(b);
        _mm512_store_si512(to + b * BLOCK, word_values(round_words(v, binade, words), v, binade, words));
      }
      return true;
    }
  }
  alignas(64) float tile[TILE];
  load_tile(x, row * w.in + k, least(w.in - k, room), room, type, tile);
  TileScales scales;
  if (w.quantised) scale_tile(tile, room / BLOCK, rule, scales);
  vi smallest = splat(LARGEST), largest = vi{};
  for (int64_t at = 0; at < room; at += LANES) {
    vf v = load<vf>(tile + at);
    if (w.quantised) {
      const int64_t b = at / BLOCK;
      v = to_value(round_nearest(v, splat(scales.inverse[b]), rule), splat(scales.value[b]), rule);
    }
    const vi magnitude = as_int(v) & MAGNITUDE;
    largest = max(largest, magnitude);
    smallest = min(smallest, magnitude != 0 ? magnitude : splat(LARGEST));
    for (int p = 0; p < planes; ++p) {
      const vi bits = as_int(v);
      store(to + p * stride + at, __builtin_convertvector(bit_cast<vu>(bits) >> 16, vh));
      v = as_float(bits) - as_float(bits & static_cast<int32_t>(0xFFFF0000u));
    }
  }
  const vi beyond = (largest > LARGEST) | (smallest < SMALLEST);
  return _mm512_movepi32_mask(bit_cast<__m512i>(beyond)) == 0;
}

}  // namespace
