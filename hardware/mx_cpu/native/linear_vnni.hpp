// A few rows of MXINT8 activations (AVX512 VNNI): element products as integers, exact within each block.
//
// Weights are signed bytes (4-bit floats doubled: 0, 1, 2, 3, 4, 6, 8, 12), activations bytes plus 128, as vpdpbusd wants
// one operand without sign; 128 times the weights' sums is subtracted beforehand, once for all rows. Each lane sums four
// products, so a register holds two blocks; the blocks' scales join them in float32.
#pragma once

#include "bf16_decoders.hpp"
#include "cast_transposed.hpp"
#include "linear_exact.hpp"

namespace {

constexpr int64_t BYTE_PAIR = 2 * BLOCK;  // elements in a register of bytes
constexpr int64_t BYTE_AHEAD = 2048;      // bytes

struct IntegerBytes {
  static constexpr int64_t BYTES = BYTE_PAIR;
  static constexpr int DOUBLED = 0;  // bytes are the elements times two to this power
  explicit IntegerBytes(const float*) {}
  template <bool TAIL>
  __attribute__((always_inline)) __m512i pair(const uint8_t* p, int64_t left) const {
    return load_bytes<TAIL>(p, left);
  }
};

struct FourBitBytes {
  static constexpr int64_t BYTES = BYTE_PAIR / 2;
  static constexpr int DOUBLED = 1;
  __m512i table;
  explicit FourBitBytes(const float* values) {
    alignas(16) int8_t bytes[16];
    for (int i = 0; i < 16; ++i) bytes[i] = static_cast<int8_t>(values[i] * (1 << DOUBLED));
    table = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  template <bool TAIL>
  __attribute__((always_inline)) __m512i pair(const uint8_t* p, int64_t left) const {
    const __mmask32 there = !TAIL || left >= BYTES ? ~0u : left <= 0 ? 0 : (1u << left) - 1;
    const __m512i words = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(there, p));
    const __m512i codes = _mm512_and_si512(_mm512_or_si512(words, _mm512_slli_epi16(words, 4)), _mm512_set1_epi8(15));
    return _mm512_shuffle_epi8(table, codes);
  }
};

// Activations: bytes plus 128, and each block's scale eight times over: (rows, pairs, 64) and (rows, pairs, 16).
struct ByteActivations {
  const uint8_t* bytes;
  const float* scales;
  int64_t pairs;
};

// False where a scale is extreme, which the exact path takes.
bool prepare_bytes(const MxLinear& w, const void* x, int64_t rows, int32_t type, int unit, ByteActivations& out) {
  const int64_t pairs = ceil_div(w.in, BYTE_PAIR), blocks = ceil_div(w.in, BLOCK);
  uint8_t* bytes = static_cast<uint8_t*>(mx_scratch(0, rows * pairs * BYTE_PAIR * 2 + rows * (w.in + blocks) + 64));
  float* scales = reinterpret_cast<float*>(bytes + rows * pairs * BYTE_PAIR);
  uint8_t *elements = reinterpret_cast<uint8_t*>(scales + rows * pairs * 16), *codes = elements + rows * w.in;
  MxCast job{};
  job.rule = w.activation_rule;
  job.source = x;
  job.elements = elements;
  job.scales = codes;
  job.before = rows;
  job.length = job.out_length = w.in;
  job.after = job.threads = 1;
  job.source_type = type;
  cast_either(job);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t p = 0; p < pairs; ++p) {
      const int64_t k = p * BYTE_PAIR, left = w.in - k, at = row * pairs + p;
      const __m512i e = left >= BYTE_PAIR ? load_bytes<false>(elements + row * w.in + k, BYTE_PAIR)
                                          : load_bytes<true>(elements + row * w.in + k, left);
      _mm512_storeu_si512(bytes + at * BYTE_PAIR, _mm512_xor_si512(e, _mm512_set1_epi8(static_cast<char>(0x80))));
      const uint64_t there = _mm512_test_epi8_mask(e, e);
      for (int h = 0; h < 2; ++h) {
        const int64_t block = 2 * p + h;
        const int exponent = block < blocks ? codes[row * blocks + block] - 127 : 0;
        const bool zero = static_cast<uint32_t>(there >> (32 * h)) == 0 && exponent < 128;
        if (!zero && (exponent + unit < SMALLEST_EXPONENT || exponent > LARGEST_EXPONENT)) return false;
        const float scale = zero ? 0.0f : bit_cast<float>((127 + exponent + unit) << 23);
        for (int i = 0; i < 8; ++i) scales[at * 16 + 8 * h + i] = scale;
      }
    }
  out = {bytes, scales, pairs};
  return true;
}

// One weight row by M activation rows. Two sums each, of even and odd pairs, so that additions overlap.
template <class W, int M>
void byte_row(const W& weight, const uint8_t* p, const uint8_t* s, int64_t row_bytes, int64_t blocks,
              const ByteActivations& x, __m512i index, float* out) {
  __m512 acc[M][2];
  MX_UNROLL for (int m = 0; m < M; ++m) acc[m][0] = acc[m][1] = _mm512_setzero_ps();
  auto add = [&](int64_t pair, int half, __m512i w, int32_t two) __attribute__((always_inline)) {
    const __m512i shift = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(static_cast<char>(0x80)), w);
    const __m512i start = _mm512_sub_epi32(_mm512_setzero_si512(), shift);
    const __m512i bits = _mm512_srli_epi32(_mm512_shuffle_epi8(_mm512_set1_epi32(two), index), 1);
    MX_UNROLL for (int m = 0; m < M; ++m) {
      const int64_t at = m * x.pairs + pair;
      const __m512i sum = _mm512_dpbusd_epi32(start, _mm512_loadu_si512(x.bytes + at * BYTE_PAIR), w);
      const __m512 scale = _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_loadu_ps(x.scales + at * 16));
      acc[m][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, acc[m][half]);
    }
  };
  const int64_t whole = least(row_bytes / W::BYTES, blocks / 2);
  int64_t pair = 0;
  for (; pair + 2 <= whole; pair += 2) {
    __builtin_prefetch(p + pair * W::BYTES + BYTE_AHEAD);
    if constexpr (W::BYTES == BYTE_PAIR) __builtin_prefetch(p + pair * W::BYTES + BYTE_AHEAD + BYTE_PAIR);
    const uint32_t four = load<uint32_t>(s + 2 * pair);
    add(pair, 0, weight.template pair<false>(p + pair * W::BYTES, 0), static_cast<int32_t>(four));
    add(pair + 1, 1, weight.template pair<false>(p + (pair + 1) * W::BYTES, 0), static_cast<int32_t>(four >> 16));
  }
  for (; pair < x.pairs; ++pair) {
    const int32_t one = s[2 * pair], two = 2 * pair + 1 < blocks ? s[2 * pair + 1] : 0;
    add(pair, 0, weight.template pair<true>(p + pair * W::BYTES, row_bytes - pair * W::BYTES), one | two << 8);
  }
  MX_UNROLL for (int m = 0; m < M; ++m) out[m] = _mm512_reduce_add_ps(_mm512_add_ps(acc[m][0], acc[m][1]));
}

template <class W>
void linear_bytes(const MxLinear& w, const void* x, void* y, const void* bias, int64_t rows, int32_t type,
                  int32_t bias_type, int32_t threads) {
  // The unit of both elements joins the activations' scales.
  const int unit = w.activation_rule.emin - w.activation_rule.mantissa_bits +
                   (w.weight_rule.is_integer ? w.weight_rule.emin - w.weight_rule.mantissa_bits : -W::DOUBLED);
  ByteActivations a;
  if (!prepare_bytes(w, x, rows, type, unit, a)) {
    linear_exact(w, x, y, bias, rows, type, bias_type, threads);
    return;
  }
  const W weight(w.table);
  constexpr int LANE_BLOCK[4] = {0, 0, 1, 1};
  const __m512i index = scale_index<3, 4>(LANE_BLOCK);
  const int64_t blocks = ceil_div(w.in, BLOCK), row_bytes = ceil_div(w.in * w.weight_rule.bits, 8);
  const int64_t grain = least(256, ceil_div(w.out, 8 * threads));
  auto body = [&](int64_t item) {
    for (int64_t n = item * grain; n < least((item + 1) * grain, w.out); ++n) {
      const uint8_t *p = w.elements + n * row_bytes, *s = w.scales + n * blocks;
      float sums[BYTE_ROWS];
      switch (rows) {
        case 1: byte_row<W, 1>(weight, p, s, row_bytes, blocks, a, index, sums); break;
        case 2: byte_row<W, 2>(weight, p, s, row_bytes, blocks, a, index, sums); break;
        case 3: byte_row<W, 3>(weight, p, s, row_bytes, blocks, a, index, sums); break;
        default: byte_row<W, 4>(weight, p, s, row_bytes, blocks, a, index, sums);
      }
      const float shift = bias ? load_value(bias, n, bias_type) : 0.0f;
      for (int64_t m = 0; m < rows; ++m) store_value(y, m * w.out + n, type, bias ? sums[m] + shift : sums[m]);
    }
  };
  parallel(ceil_div(w.out, grain), threads, body);
}

}  // namespace
