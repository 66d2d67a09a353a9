// The fast product (AVX512 with BF16 and VBMI): packed weights looked up to bfloat16, vdpbf16ps, float32 sums.
//
// Exact operands: MX elements, and activations away from the ends of float32's range, are exact in bfloat16; an
// unquantised float32 (float16) activation is the exact sum of three (two) bfloat16 numbers, taken as rows of their own.
#pragma once

#include "bf16_decoders.hpp"
#include "linear_exact.hpp"

namespace {

constexpr int32_t SMALLEST = (127 - 80) << 23, LARGEST = (127 + 100) << 23;  // magnitudes whose products stay normal
constexpr int64_t COLUMNS = 16;  // weight rows that one thread finishes at a time
constexpr int64_t X_BYTES = 384 << 10;

// Activations in bfloat16, in the decoder's order: (planes, rows, padded).
struct Activations {
  const uint16_t* data;
  int64_t rows, padded;
  int planes;
};

template <class D>
bool prepare(const MxLinear& w, const void* x, int64_t rows, int32_t type, int32_t threads, Activations& out) {
  const int64_t padded = ceil_div(w.in, UNIT) * UNIT, tiles = ceil_div(padded, TILE);
  const int planes = w.quantised || type == MX_BF16 ? 1 : type == MX_F16 ? 2 : 3;
  uint16_t* data = static_cast<uint16_t*>(mx_scratch(0, planes * rows * padded * 2 + 64));
  const Rule rule(w.activation_rule);
  int outside = 0;
  auto body = [&](int64_t item) {
    const int64_t row = item / tiles, k = item % tiles * TILE;
    const int64_t room = least(padded - k, TILE), count = least(w.in - k, room);
    alignas(64) float tile[TILE];
    load_tile(x, row * w.in + k, count, room, type, tile);
    TileScales scales;
    if (w.quantised) scale_tile(tile, room / BLOCK, rule, scales);
    vi smallest = splat(LARGEST), largest = vi{};
    for (int64_t at = 0; at < room; at += LANES) {
      vf v = load<vf>(tile + at);
      if (w.quantised) {
        const int64_t b = at / BLOCK;
        v = to_value(round_nearest(v, splat(scales.inverse[b]), rule), splat(scales.value[b]), rule);
        store(tile + at, v);
      }
      const vi magnitude = as_int(v) & MAGNITUDE;
      largest = max(largest, magnitude);
      smallest = min(smallest, magnitude != 0 ? magnitude : splat(LARGEST));
    }
    const vi beyond = (largest > LARGEST) | (smallest < SMALLEST);
    if (_mm512_movepi32_mask(bit_cast<__m512i>(beyond))) __atomic_store_n(&outside, 1, __ATOMIC_RELAXED);
    for (int p = 0; p < planes; ++p) {
      uint16_t* to = data + (p * rows + row) * padded + k;
      for (int64_t unit = 0; unit < room; unit += UNIT) {
        __m512i natural[4], arranged[4];
        for (int i = 0; i < 4; ++i) {
          vh half[2];
          for (int h = 0; h < 2; ++h) {
            float* at = tile + unit + 32 * i + LANES * h;
            const vi bits = load<vi>(at);
            half[h] = __builtin_convertvector(bit_cast<vu>(bits) >> 16, vh);
            if (planes > 1) store(at, as_float(bits) - as_float(bits & static_cast<int32_t>(0xFFFF0000u)));
          }
          std::memcpy(&natural[i], half, 64);
        }
        D::arrange(natural, arranged);
        for (int i = 0; i < 4; ++i) _mm512_storeu_si512(to + unit + 32 * i, arranged[i]);
      }
    }
  };
  parallel(rows * tiles, rows * padded < (1 << 15) ? 1 : threads, body);
  out = {data, rows, padded, planes};
  return !outside;
}

MX_INLINE __m512i as_bytes(int32_t four) { return _mm512_set1_epi32(four); }

MX_INLINE int32_t four_scales(const uint8_t* p, int64_t left) {
  int32_t four = 0;
  if (left >= 4) {
    std::memcpy(&four, p, 4);
  } else {
    for (int64_t i = 0; i < left; ++i) four |= static_cast<int32_t>(p[i]) << (8 * i);
  }
  return four;
}

MX_INLINE __m512 dot(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// One activation row: the scale multiplies each unit's sums.
template <class D>
MX_INLINE float dot_row(const D& d, const uint8_t* p, const uint8_t* s, int64_t row_bytes, int64_t blocks,
                        const uint16_t* x, const __m512i* index) {
  constexpr int64_t BYTES = UNIT * D::BITS / 8;
  __m512 acc[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  auto step = [&](int64_t u, int64_t left, int32_t scales) __attribute__((always_inline)) {
    __m512i w[4];
    d.decode(p + u * BYTES, left, w);
    for (int v = 0; v < D::SCALES; ++v) {
      constexpr int EACH = 4 / D::SCALES;
      __m512 sum = _mm512_setzero_ps();
      for (int i = EACH * v; i < EACH * (v + 1); ++i) sum = dot(sum, w[i], _mm512_load_si512(x + u * UNIT + 32 * i));
      const __m512i scale = _mm512_srli_epi32(_mm512_shuffle_epi8(as_bytes(scales), index[v]), 1);
      acc[D::SCALES == 2 ? v : u & 1] = _mm512_fmadd_ps(sum, _mm512_castsi512_ps(scale), acc[D::SCALES == 2 ? v : u & 1]);
    }
  };
  const int64_t whole = row_bytes / BYTES;
  int64_t u = 0;
  for (; u + 2 <= whole; u += 2) {
    step(u, BYTES, four_scales(s + 4 * u, 4));
    step(u + 1, BYTES, four_scales(s + 4 * u + 4, 4));
  }
  for (; u * UNIT < blocks * BLOCK; ++u)
    step(u, row_bytes - u * BYTES, four_scales(s + 4 * u, blocks - 4 * u));
  return _mm512_reduce_add_ps(_mm512_add_ps(acc[0], acc[1]));
}

// A weight row as bfloat16 with its scales in the exponents; zeros stay zeros.
template <class D>
MX_INLINE void decode_row(const D& d, const uint8_t* p, const uint8_t* s, int64_t row_bytes, int64_t blocks,
                          const __m512i* index, uint16_t* out) {
  constexpr int64_t BYTES = UNIT * D::BITS / 8;
  for (int64_t u = 0; u * UNIT < blocks * BLOCK; ++u) {
    __m512i w[4], shift[D::SCALES];
    d.decode(p + u * BYTES, row_bytes - u * BYTES, w);
    const __m512i scales = as_bytes(four_scales(s + 4 * u, blocks - 4 * u));
    for (int v = 0; v < D::SCALES; ++v)
      shift[v] = _mm512_sub_epi16(_mm512_slli_epi16(_mm512_shuffle_epi8(scales, index[v]), 7), _mm512_set1_epi16(127 << 7));
    for (int i = 0; i < 4; ++i) {
      const __mmask32 nonzero = _mm512_test_epi16_mask(w[i], _mm512_set1_epi16(0x7FFF));
      w[i] = _mm512_mask_add_epi16(w[i], nonzero, w[i], shift[i * D::SCALES / 4]);
      _mm512_store_si512(out + u * UNIT + 32 * i, w[i]);
    }
  }
}

// Sums of four registers, one lane each.
MX_INLINE __m128 sums_of_four(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
                                   _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// Four weight rows by M activation rows; out[m * COLUMNS .. + 3].
template <int M>
void tile(const uint16_t* w, const uint16_t* x, int64_t padded, float* out) {
  __m512 acc[M][4];
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < 4; ++n) acc[m][n] = _mm512_setzero_ps();
  for (int64_t k = 0; k < padded; k += 32) {
    __m512i row[4];
    for (int n = 0; n < 4; ++n) row[n] = _mm512_load_si512(w + n * padded + k);
    for (int m = 0; m < M; ++m) {
      const __m512i a = _mm512_load_si512(x + m * padded + k);
      for (int n = 0; n < 4; ++n) acc[m][n] = dot(acc[m][n], row[n], a);
    }
  }
  for (int m = 0; m < M; ++m) _mm_storeu_ps(out + m * COLUMNS, sums_of_four(acc[m][0], acc[m][1], acc[m][2], acc[m][3]));
}

void tiles(const uint16_t* w, const uint16_t* x, int64_t padded, int64_t rows, float* out) {
  for (int64_t m = 0; m < rows; m += 6, x += 6 * padded, out += 6 * COLUMNS) {
    switch (rows - m) {
      case 1: tile<1>(w, x, padded, out); break;
      case 2: tile<2>(w, x, padded, out); break;
      case 3: tile<3>(w, x, padded, out); break;
      case 4: tile<4>(w, x, padded, out); break;
      case 5: tile<5>(w, x, padded, out); break;
      default: tile<6>(w, x, padded, out);
    }
  }
}

template <class D>
void linear_by(const MxLinear& w, const void* x, void* y, const void* bias, int64_t rows, int32_t type,
               int32_t bias_type, int32_t threads) {
  Activations a;
  if (!prepare<D>(w, x, rows, type, threads, a)) {
    linear_exact(w, x, y, bias, rows, type, bias_type, threads);
    return;
  }
  const D decoder{Tables(w.table, w.weight_rule.bits)};
  const int64_t blocks = ceil_div(w.in, BLOCK), row_bytes = ceil_div(w.in * D::BITS, 8), padded = a.padded;
  __m512i fine[D::SCALES], coarse[D::SCALES];
  for (int v = 0; v < D::SCALES; ++v) {
    fine[v] = scale_index<3, 4>(D::LANE_BLOCK[v]);
    coarse[v] = scale_index<0, 2>(D::LANE_BLOCK[v]);
  }
  // Rows of one chunk, all planes of it, stay in the second-level cache while weights pass by.
  int64_t chunk = X_BYTES / (padded * 2 * a.planes) / 6 * 6;
  if (chunk < 6) chunk = 6;
  if (chunk > rows) chunk = rows;
  const int64_t chunks = ceil_div(rows, chunk), strips = ceil_div(w.out, COLUMNS);
  const int64_t run = rows == 1 ? least(ceil_div(strips, 8 * threads), 16) : 1, runs = ceil_div(strips, run);
  auto finish = [&](int64_t m, int64_t n, int64_t count, const float* sums, int64_t plane) {
    vf v = load<vf>(sums);
    for (int p = 1; p < a.planes; ++p) v += load<vf>(sums + p * plane);
    const int64_t at = m * w.out + n;
    if (count == COLUMNS) {
      if (bias) v += load_values(bias, n, bias_type);
      store_values(y, at, type, v);
    } else {
      for (int64_t i = 0; i < count; ++i)
        store_value(y, at + i, type, bias ? v[i] + load_value(bias, n + i, bias_type) : v[i]);
    }
  };
  auto body = [&](int64_t item) {
    const int64_t m0 = item / runs * chunk, m_count = least(rows - m0, chunk);
    uint16_t* buffer = nullptr;
    float* sums = nullptr;
    const int64_t plane = m_count * COLUMNS;
    if (rows > 1 || a.planes > 1) {
      buffer = static_cast<uint16_t*>(mx_scratch(1, 4 * padded * 2));
      sums = static_cast<float*>(mx_scratch(2, a.planes * plane * 4));
    }
    const int64_t strip0 = item % runs * run;
    for (int64_t strip = strip0; strip < least(strip0 + run, strips); ++strip) {
      const int64_t n0 = strip * COLUMNS, count = least(w.out - n0, COLUMNS);
      if (!buffer) {
        alignas(64) float one[COLUMNS] = {};
        for (int64_t i = 0; i < count; ++i)
          one[i] = dot_row(decoder, w.elements + (n0 + i) * row_bytes, w.scales + (n0 + i) * blocks, row_bytes, blocks,
                           a.data, fine);
        finish(0, n0, count, one, 0);
        continue;
      }
      for (int64_t i = 0; i < COLUMNS; i += 4) {
        for (int64_t j = 0; j < 4; ++j) {
          const int64_t n = n0 + i + j;
          if (n < w.out) {
            decode_row(decoder, w.elements + n * row_bytes, w.scales + n * blocks, row_bytes, blocks, coarse,
                       buffer + j * padded);
          } else {
            std::memset(buffer + j * padded, 0, static_cast<size_t>(padded) * 2);
          }
        }
        for (int p = 0; p < a.planes; ++p)
          tiles(buffer, a.data + (p * rows + m0) * padded, padded, m_count, sums + p * plane + i);
      }
      for (int64_t m = 0; m < m_count; ++m) finish(m0 + m, n0, count, sums + m * COLUMNS, plane);
    }
  };
  parallel(chunks * runs, threads, body);
}

void linear_fast(const MxLinear& w, const void* x, void* y, const void* bias, int64_t rows, int32_t type,
                 int32_t bias_type, int32_t threads) {
  const MxRule& rule = w.weight_rule;
  auto run = w.exact               ? linear_exact
             : rule.bits == 4      ? linear_by<Four>
             : rule.bits == 6      ? linear_by<Six>
             : rule.is_integer     ? linear_by<Eight<true>>
                                   : linear_by<Eight<false>>;
  run(w, x, y, bias, rows, type, bias_type, threads);
}

}  // namespace
