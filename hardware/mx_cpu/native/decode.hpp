// Packed rows back to values.
#pragma once

#include "packing.hpp"
#include "parallel.hpp"
#include "quantum.hpp"

namespace {

struct Decoder {
  int32_t bits, shift, magnitude, max_code, bias, implied;
  float factor;
  bool is_integer;
  const float* table;

  Decoder(const MxRule& r, const float* values)
      : bits(r.bits),
        shift(23 - r.mantissa_bits),
        magnitude((1 << (r.bits - 1)) - 1),
        max_code(r.max_code),
        bias((126 + r.emin) << 23),
        implied(1 << r.mantissa_bits),
        factor(bit_cast<float>((127 + (r.is_integer ? 0 : r.emin) - r.mantissa_bits) << 23)),
        is_integer(r.is_integer != 0),
        table(values) {}

  MX_INLINE float scale(uint8_t code) {
    if (code == 255) return bit_cast<float>(0x7FC00000);
    return bit_cast<float>(code ? static_cast<int32_t>(code) << 23 : LEAST_SCALE);
  }

  // 32 codes to values, times the scale.
  __attribute__((always_inline)) void block(const uint8_t* codes, float scale, float* out) const {
    for (int h = 0; h < 2; ++h) {
      vi code = __builtin_convertvector(load<vb>(codes + LANES * h), vi);
      vf v;
      if (is_integer) {
        v = __builtin_convertvector(code << 24 >> 24, vf) * factor;
      } else {
        const vi m = code & magnitude;
        // Without an implied bit the mantissa counts in quanta of the least binade.
        const vf small = __builtin_convertvector(m, vf) * factor, normal = as_float((m << shift) + bias);
        v = as_float(as_int(m < implied ? small : normal) | (code >> (bits - 1)) << 31);
        if (bits == 8) {
          vi beyond = m > max_code;
#if defined(__AVX512F__)
          const bool any = _mm512_movepi32_mask(bit_cast<__m512i>(beyond)) != 0;
#else
          int32_t any = 0;
          for (int i = 0; i < LANES; ++i) any |= beyond[i];
#endif
          if (any)
            for (int i = 0; i < LANES; ++i)
              if (beyond[i]) v[i] = table[code[i]];
        }
      }
      store(out + LANES * h, v * scale);
    }
  }

  // Values k .. k + 32 of a packed row; zeros past its end.
  __attribute__((always_inline)) void row_block(const uint8_t* row, uint8_t scale_code, int64_t k, int64_t length,
                                                float* out) const {
    alignas(64) uint8_t codes[BLOCK];
    if (k + BLOCK <= length) {
      unpack_block(row + k / 8 * bits, bits, codes);
    } else {
      for (int64_t i = 0; i < BLOCK; ++i) codes[i] = k + i < length ? unpack_one(row, bits, k + i) : 0;
    }
    block(codes, scale(scale_code), out);
  }
};

void decode(const MxDecode& d) {
  const Decoder decoder(d.rule, d.table);
  const bool whole = d.length % BLOCK == 0;
  const int64_t rows = whole ? 1 : d.rows, length = whole ? d.rows * d.length : d.length;
  const int64_t blocks = ceil_div(length, BLOCK), row_bytes = ceil_div(length * d.rule.bits, 8), grain = 512;
  auto body = [&](int64_t item) {
    for (int64_t t = item * grain; t < least((item + 1) * grain, rows * blocks); ++t) {
      const int64_t row = t / blocks, k = t % blocks * BLOCK, to = row * length + k;
      alignas(64) float v[BLOCK];
      decoder.row_block(d.elements + row * row_bytes, d.scales[row * blocks + k / BLOCK], k, length, v);
      if (k + BLOCK <= length) {
        for (int h = 0; h < 2; ++h) store_values(d.values, to + LANES * h, d.values_type, load<vf>(v + LANES * h));
      } else {
        for (int64_t i = 0; i < length - k; ++i) store_value(d.values, to + i, d.values_type, v[i]);
      }
    }
  };
  parallel(ceil_div(rows * blocks, grain), d.threads, body);
}

}  // namespace
