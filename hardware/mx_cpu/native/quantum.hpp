// The arithmetic of the cast on sixteen lanes; mx_plugin/formats/arithmetic.py is its definition, bit for bit.
#pragma once

#include "lanes.hpp"

namespace {

constexpr int32_t EXPONENT = 0x7F800000, MAGNITUDE = 0x7FFFFFFF, SIGN = static_cast<int32_t>(0x80000000u);
constexpr int32_t LEAST_SCALE = 0x00400000;    // 2**-127, E8M0 code 0
constexpr int32_t LARGEST_SCALE = 0x7F000000;  // 2**127, code 254

struct Rule {
  int32_t bits, shift, least, offset, max_code;
  float max;
  bool doubled, is_integer;

  explicit Rule(const MxRule& r)
      : bits(r.bits),
        shift(23 - r.mantissa_bits),
        least((127 + r.emin) << 23),
        offset(r.offset),
        max_code(r.max_code),
        max(r.max),
        doubled(r.doubled != 0),
        is_integer(r.is_integer != 0) {}
};

struct Scales {
  vf value, inverse;
  vi code;   // 255 for a broken block
  vi whole;  // -1; 0 for a block with NaN or infinity
};

// From the largest magnitudes, as bits: NaN and infinity compare above every number.
MX_INLINE Scales make_scales(vi amax, const Rule& r) {
  vi bits = amax;
  if (r.doubled) {
    const vf a = as_float(amax);
    bits = as_int(a + a);
  }
  bits = (bits + r.offset) & (SIGN | EXPONENT);
  bits = min(max(bits, splat(LEAST_SCALE)), splat(LARGEST_SCALE));
  const vi inverse = max((LARGEST_SCALE + LEAST_SCALE - bits) & EXPONENT, splat(LEAST_SCALE));
  Scales s;
  s.whole = amax < EXPONENT;
  s.value = as_float(s.whole ? bits : splat(static_cast<int32_t>(0x7FC00000)));
  s.inverse = as_float(inverse);
  s.code = s.whole ? bits >> 23 : splat(255);
  return s;
}

struct Rounded {
  vi sign, above;  // above: binades above the least, times 2**mantissa_bits
  vi quanta;       // of the magnitude, within its binade
  vf magnitude;
};

// Modulo 2**32: lanes of infinity and NaN leave the range, and their block's result is replaced afterwards.
MX_INLINE vi sum_of(vi a, vi b) { return bit_cast<vi>(bit_cast<vu>(a) + bit_cast<vu>(b)); }
MX_INLINE vi difference(vi a, vi b) { return bit_cast<vi>(bit_cast<vu>(a) - bit_cast<vu>(b)); }

// Adding 2**23 quanta leaves the quanta, rounded to nearest even, in the lowest bits.
MX_INLINE Rounded round_nearest(vf v, vf inverse, const Rule& r) {
  const vi bits = as_int(v * inverse);
  const vi magnitude = bits & MAGNITUDE;
  const vi binade = max(magnitude & EXPONENT, splat(r.least));
  const vi magic = sum_of(binade, splat(r.shift << 23));
  const vf sum = as_float(magnitude) + as_float(magic);
  return {bits & SIGN, (binade - r.least) >> r.shift, difference(as_int(sum), magic), sum - as_float(magic)};
}

MX_INLINE Rounded round_stochastic(vf v, vf inverse, vf threshold, const Rule& r) {
  const vi bits = as_int(v * inverse);
  const vi magnitude = bits & MAGNITUDE;
  const vi binade = max(magnitude & EXPONENT, splat(r.least));
  const vi quantum = binade - ((23 - r.shift) << 23);
  const vf count = as_float(magnitude) * as_float((254 << 23) - quantum);
  vi low = __builtin_convertvector(count, vi);
  low -= count - __builtin_convertvector(low, vf) >= threshold;  // a true comparison is -1
  return {bits & SIGN, (binade - r.least) >> r.shift, low, __builtin_convertvector(low, vf) * as_float(quantum)};
}

MX_INLINE vf to_value(const Rounded& q, vf scale, const Rule& r) {
  const vf limit = splat(r.max);
  const vi magnitude = as_int(q.magnitude > limit ? limit : q.magnitude);
  // two's complement has no negative zero
  const vi sign = r.is_integer ? (magnitude != 0 ? q.sign : vi{}) : q.sign;
  return as_float(magnitude | sign) * scale;
}

MX_INLINE vi to_code(const Rounded& q, vi whole, const Rule& r) {
  vi code = min(q.above + q.quanta, splat(r.max_code));
  if (r.is_integer) {
    code = (q.sign != 0 ? -code : code) & 0xFF;
  } else {
    code |= (q.sign >> (32 - r.bits)) & (1 << (r.bits - 1));
  }
  return code & whole;
}

// Lane i of the result: the largest lane of m[i].
MX_INLINE vi largest_of_each(const vi* m) {
  vi a[8], b[4], c[2];
  for (int i = 0; i < 8; ++i) {
    const vi x = m[i], y = m[i + 8];
    a[i] = max(__builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
               __builtin_shufflevector(x, y, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
  }
  for (int i = 0; i < 4; ++i) {
    const vi x = a[i], y = a[i + 4];
    b[i] = max(__builtin_shufflevector(x, y, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
               __builtin_shufflevector(x, y, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31));
  }
  for (int i = 0; i < 2; ++i) {
    const vi x = b[i], y = b[i + 2];
    c[i] = max(__builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
               __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31));
  }
  const vi x = c[0], y = c[1];
  return max(__builtin_shufflevector(x, y, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
             __builtin_shufflevector(x, y, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31));
}

constexpr float HADAMARD_NORM = 0.17677669529663687f;  // 32 ** -0.5

// Lanes i and i ^ D to (a + b, a - b).
template <int D>
MX_INLINE vf butterfly(vf v) {
  vi flip;
  vf swapped;
  for (int i = 0; i < LANES; ++i) flip[i] = i & D ? SIGN : 0;
  if constexpr (D == 1) {
    swapped = __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  } else if constexpr (D == 2) {
    swapped = __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  } else if constexpr (D == 4) {
    swapped = __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  } else {
    swapped = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  }
  return swapped + as_float(as_int(v) ^ flip);
}

// The random Hadamard transform of one block of 32 in place.
MX_INLINE void hadamard_block(float* block, uint32_t signs) {
  vf half[2];
  for (int h = 0; h < 2; ++h) {
    vi flip;
    for (int i = 0; i < LANES; ++i) flip[i] = static_cast<int32_t>((signs >> (16 * h + i) & 1u) << 31);
    vf v = as_float(as_int(load<vf>(block + LANES * h)) ^ flip);
    half[h] = butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(v))));
  }
  store(block, (half[0] + half[1]) * HADAMARD_NORM);
  store(block + LANES, (half[0] - half[1]) * HADAMARD_NORM);
}

}  // namespace
