// The fast product (AVX512 with BF16 and VBMI): packed weights looked up to bfloat16, vdpbf16ps, float32 sums.
#pragma once

#include "activations.hpp"
#include "bf16_decoders.hpp"
#include "linear_exact.hpp"
#include "linear_vnni.hpp"

namespace {

constexpr int64_t COLUMNS = 16;  // weight rows that one thread finishes at a time
constexpr int64_t X_BYTES = 384 << 10;

// Activations in bfloat16, in the decoder's order: (planes, rows, padded).
struct Activations {
  const uint16_t* data;
  int64_t rows, padded, stride;  // from row to row: not a multiple of 4096 bytes, or all rows would share a few cache sets
  int planes;
};

template <class D>
bool prepare(const MxLinear& w, const void* x, int64_t rows, int32_t type, int32_t threads, Activations& out) {
  const int64_t padded = ceil_div(w.in, UNIT) * UNIT, tiles = ceil_div(padded, TILE);
  const int planes = planes_of(w, type);
  const int64_t stride = padded % 1024 == 0 ? padded + 32 : padded;
  uint16_t* data = static_cast<uint16_t*>(mx_scratch(0, planes * rows * stride * 2 + 64));
  const ActivationRule rule(w);
  int outside = 0;
  auto body = [&](int64_t item) {
    const int64_t row = item / tiles, k = item % tiles * TILE, room = least(padded - k, TILE);
    alignas(64) uint16_t natural[MAX_PLANES * TILE];
    if (!activation_tile(w, rule, x, row, k, room, type, planes, TILE, natural))
      __atomic_store_n(&outside, 1, __ATOMIC_RELAXED);
    for (int p = 0; p < planes; ++p) {
      uint16_t* to = data + (p * rows + row) * stride + k;
      for (int64_t unit = 0; unit < room; unit += UNIT) {
        __m512i block[4], arranged[4];
        for (int i = 0; i < 4; ++i) block[i] = _mm512_load_si512(natural + p * TILE + unit + 32 * i);
        D::arrange(block, arranged);
        for (int i = 0; i < 4; ++i) _mm512_storeu_si512(to + unit + 32 * i, arranged[i]);
      }
    }
  };
  parallel(rows * tiles, rows * padded < (1 << 15) ? 1 : threads, body);
  out = {data, rows, padded, stride, planes};
  return !outside;
}

// The scales of a row's last, incomplete unit.
MX_INLINE int32_t last_scales(const uint8_t* p, int64_t left) {
  int32_t four = 0;
  for (int64_t i = 0; i < least(left, 4); ++i) four |= static_cast<int32_t>(p[i]) << (8 * i);
  return four;
}

MX_INLINE __m512 dot(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
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

// Few activation rows: R weight rows by M, everything in registers; a scale multiplies each unit's sums.
// out[m * COLUMNS + r].
template <class D, int R, int M, bool TAIL>
MX_INLINE void direct_unit(const D& d, const uint8_t* p, const uint8_t* s, int64_t row_bytes, int64_t bytes_left,
                           int64_t blocks, int64_t blocks_left, const uint16_t* x, int64_t stride,
                           const __m512i* index, __m512* acc) {
  constexpr int EACH = 4 / D::SCALES;
  __m512i w[R][4];
  __m512 scale[R][D::SCALES];
  MX_UNROLL for (int r = 0; r < R; ++r) {
    d.template decode<TAIL>(p + r * row_bytes, bytes_left, w[r]);
    const int32_t four = TAIL ? last_scales(s + r * blocks, blocks_left) : load<int32_t>(s + r * blocks);
    MX_UNROLL for (int v = 0; v < D::SCALES; ++v)
      scale[r][v] = _mm512_castsi512_ps(_mm512_srli_epi32(_mm512_shuffle_epi8(_mm512_set1_epi32(four), index[v]), 1));
  }
  MX_UNROLL for (int m = 0; m < M; ++m) {
    MX_UNROLL for (int v = 0; v < D::SCALES; ++v) {
      __m512 sum[R];
      MX_UNROLL for (int i = 0; i < EACH; ++i) {
        const __m512i a = _mm512_load_si512(x + m * stride + 32 * (EACH * v + i));
        MX_UNROLL for (int r = 0; r < R; ++r) sum[r] = dot(i ? sum[r] : _mm512_setzero_ps(), w[r][EACH * v + i], a);
      }
      MX_UNROLL for (int r = 0; r < R; ++r) acc[m * R + r] = _mm512_fmadd_ps(sum[r], scale[r][v], acc[m * R + r]);
    }
  }
}

constexpr int64_t DIRECT_AHEAD = 2048;  // bytes: the processor's own look-ahead leaves the decoder waiting

template <class D, int R, int M>
void direct(const D& decoder, const uint8_t* p, const uint8_t* s, int64_t row_bytes, int64_t blocks, const uint16_t* x,
            int64_t units, int64_t stride, const __m512i* scale_index, float* out) {
  constexpr int64_t BYTES = UNIT * D::BITS / 8;
  constexpr int COUNT = (R * M + 3) / 4 * 4;
  const D d = decoder;
  __m512i index[D::SCALES];
  MX_UNROLL for (int v = 0; v < D::SCALES; ++v) index[v] = scale_index[v];
  __m512 acc[COUNT];
  MX_UNROLL for (int i = 0; i < COUNT; ++i) acc[i] = _mm512_setzero_ps();
  const int64_t whole = least(row_bytes / BYTES, blocks / 4);
  int64_t u = 0;
  for (; u < whole; ++u) {
    MX_UNROLL for (int r = 0; r < R; ++r)
      MX_UNROLL for (int64_t line = 0; line < BYTES; line += 64)
        __builtin_prefetch(p + r * row_bytes + u * BYTES + DIRECT_AHEAD + line);  // does no harm past the end
    direct_unit<D, R, M, false>(d, p + u * BYTES, s + 4 * u, row_bytes, 0, blocks, 0, x + u * UNIT, stride, index, acc);
  }
  for (; u < units; ++u)
    direct_unit<D, R, M, true>(d, p + u * BYTES, s + 4 * u, row_bytes, row_bytes - u * BYTES, blocks, blocks - 4 * u,
                               x + u * UNIT, stride, index, acc);
  if constexpr (R * M == 1) {
    out[0] = _mm512_reduce_add_ps(acc[0]);
  } else {
    alignas(16) float sums[COUNT];
    MX_UNROLL for (int i = 0; i < COUNT; i += 4)
      _mm_store_ps(sums + i, sums_of_four(acc[i], acc[i + 1], acc[i + 2], acc[i + 3]));
    for (int m = 0; m < M; ++m)
      for (int r = 0; r < R; ++r) out[m * COLUMNS + r] = sums[m * R + r];
  }
}

// `count` weight rows by M activation rows.
template <class D, int M>
void direct_strip(const D& d, const uint8_t* p, const uint8_t* s, int64_t row_bytes, int64_t blocks, const uint16_t* x,
                  int64_t units, int64_t stride, const __m512i* index, int64_t count, float* out) {
  constexpr int R = M == 1 ? 1 : 2;
  int64_t n = 0;
  for (; n + R <= count; n += R)
    direct<D, R, M>(d, p + n * row_bytes, s + n * blocks, row_bytes, blocks, x, units, stride, index, out + n);
  for (; n < count; ++n)
    direct<D, 1, M>(d, p + n * row_bytes, s + n * blocks, row_bytes, blocks, x, units, stride, index, out + n);
}

constexpr int64_t DIRECT_ROWS = 8;

// Units first .. last of a weight row as bfloat16 with its scales in the exponents; zeros stay zeros.
template <class D, bool TAIL, bool NATURAL = false>
MX_INLINE void decode_unit(const D& d, const uint8_t* p, int64_t bytes_left, int32_t four, const __m512i* index,
                           uint16_t* out) {
  __m512i w[4], e[4], shift[D::SCALES];
  d.template decode<TAIL>(p, bytes_left, w);
  const __m512i scales = _mm512_set1_epi32(four);
  MX_UNROLL for (int v = 0; v < D::SCALES; ++v)
    shift[v] = _mm512_sub_epi16(_mm512_slli_epi16(_mm512_shuffle_epi8(scales, index[v]), 7), _mm512_set1_epi16(127 << 7));
  MX_UNROLL for (int i = 0; i < 4; ++i) {
    const __mmask32 nonzero = _mm512_test_epi16_mask(w[i], _mm512_set1_epi16(0x7FFF));
    w[i] = _mm512_mask_add_epi16(w[i], nonzero, w[i], shift[i * D::SCALES / 4]);
  }
  if constexpr (NATURAL) {
    D::unarrange(w, e);
    MX_UNROLL for (int i = 0; i < 4; ++i) _mm512_storeu_si512(out + 32 * i, e[i]);
  } else {
    MX_UNROLL for (int i = 0; i < 4; ++i) _mm512_store_si512(out + 32 * i, w[i]);
  }
}

template <class D>
MX_INLINE void decode_row(const D& d, const uint8_t* p, const uint8_t* s, int64_t row_bytes, int64_t blocks,
                          int64_t first, int64_t last, const __m512i* index, uint16_t* out) {
  constexpr int64_t BYTES = UNIT * D::BITS / 8;
  const int64_t whole = least(last, least(row_bytes / BYTES, blocks / 4));
  int64_t u = first;
  for (; u < whole; ++u, out += UNIT)
    decode_unit<D, false>(d, p + u * BYTES, 0, load<int32_t>(s + 4 * u), index, out);
  for (; u < last; ++u, out += UNIT)
    decode_unit<D, true>(d, p + u * BYTES, row_bytes - u * BYTES, last_scales(s + 4 * u, blocks - 4 * u), index, out);
}

constexpr int64_t DEPTH = 1024;  // elements of a row decoded at a time: with their activations they stay in the first cache
constexpr int64_t GROUP = 8;     // weight rows decoded at a time

// Four weight rows by M activation rows over `depth` elements, added to sums[m * GROUP + n], or starting there.
template <int M>
void tile(const uint16_t* w, const uint16_t* x, int64_t stride, int64_t depth, bool start, __m512* sums) {
  __m512 acc[M][4];
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < 4; ++n) acc[m][n] = start ? _mm512_setzero_ps() : sums[m * GROUP + n];
  for (int64_t k = 0; k < depth; k += 32) {
    __m512i row[4];
    for (int n = 0; n < 4; ++n) row[n] = _mm512_load_si512(w + n * DEPTH + k);
    for (int m = 0; m < M; ++m) {
      const __m512i a = _mm512_load_si512(x + m * stride + k);
      for (int n = 0; n < 4; ++n) acc[m][n] = dot(acc[m][n], row[n], a);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < 4; ++n) sums[m * GROUP + n] = acc[m][n];
}

void tiles(const uint16_t* w, const uint16_t* x, int64_t stride, int64_t depth, int64_t rows, bool start, __m512* sums) {
  for (int64_t m = 0; m < rows; m += 6, x += 6 * stride, sums += 6 * GROUP)
    for (int64_t n = 0; n < GROUP; n += 4) {
      switch (rows - m) {
        case 1: tile<1>(w + n * DEPTH, x, stride, depth, start, sums + n); break;
        case 2: tile<2>(w + n * DEPTH, x, stride, depth, start, sums + n); break;
        case 3: tile<3>(w + n * DEPTH, x, stride, depth, start, sums + n); break;
        case 4: tile<4>(w + n * DEPTH, x, stride, depth, start, sums + n); break;
        case 5: tile<5>(w + n * DEPTH, x, stride, depth, start, sums + n); break;
        default: tile<6>(w + n * DEPTH, x, stride, depth, start, sums + n);
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
  const int64_t run = least(ceil_div(strips, 8 * threads), 16), runs = ceil_div(strips, run);
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
  const bool few = a.planes * rows <= DIRECT_ROWS;
  auto body = [&](int64_t item) {
    const int64_t m0 = item / runs * chunk, m_count = least(rows - m0, chunk), strip0 = item % runs * run;
    const int64_t plane = m_count * COLUMNS;
    const D local = decoder;
    float* sums = static_cast<float*>(mx_scratch(2, a.planes * plane * 4));
    for (int64_t strip = strip0; strip < least(strip0 + run, strips); ++strip) {
      const int64_t n0 = strip * COLUMNS, count = least(w.out - n0, COLUMNS);
      const uint8_t *p = w.elements + n0 * row_bytes, *s = w.scales + n0 * blocks;
      if (few) {
        auto go = [&](auto strip_of) { strip_of(decoder, p, s, row_bytes, blocks, a.data, padded / UNIT, a.stride, fine, count, sums); };
        switch (a.planes * rows) {
          case 1: go(direct_strip<D, 1>); break;
          case 2: go(direct_strip<D, 2>); break;
          case 3: go(direct_strip<D, 3>); break;
          case 4: go(direct_strip<D, 4>); break;
          case 5: go(direct_strip<D, 5>); break;
          case 6: go(direct_strip<D, 6>); break;
          case 7: go(direct_strip<D, 7>); break;
          default: go(direct_strip<D, 8>);
        }
      } else {
        uint16_t* buffer = static_cast<uint16_t*>(mx_scratch(1, GROUP * DEPTH * 2));
        __m512* partial = static_cast<__m512*>(mx_scratch(3, a.planes * m_count * GROUP * 64));
        for (int64_t i = 0; i < COLUMNS; i += GROUP) {
          for (int64_t k = 0; k < padded; k += DEPTH) {
            const int64_t depth = least(padded - k, DEPTH);
            for (int64_t j = 0; j < GROUP; ++j) {
              const int64_t n = i + j;
              if (n < count) {
                decode_row(local, p + n * row_bytes, s + n * blocks, row_bytes, blocks, k / UNIT, (k + depth) / UNIT,
                           coarse, buffer + j * DEPTH);
              } else {
                std::memset(buffer + j * DEPTH, 0, static_cast<size_t>(depth) * 2);
              }
            }
            for (int q = 0; q < a.planes; ++q)
              tiles(buffer, a.data + (q * rows + m0) * a.stride + k, a.stride, depth, m_count, k == 0,
                    partial + q * m_count * GROUP);
          }
          for (int64_t m = 0; m < a.planes * m_count; ++m)
            for (int64_t j = 0; j < GROUP; j += 4) {
              const __m512* from = partial + m * GROUP + j;
              _mm_storeu_ps(sums + m * COLUMNS + i + j, sums_of_four(from[0], from[1], from[2], from[3]));
            }
        }
      }
      for (int64_t m = 0; m < m_count; ++m) finish(m0 + m, n0, count, sums + m * COLUMNS, plane);
    }
  };
  parallel(chunks * runs, threads, body);
}

// Whole units of packed rows of whole blocks to bfloat16; returns how many elements are done.
template <class D>
int64_t decode_units(const MxDecode& d) {
  constexpr int64_t BYTES = UNIT * D::BITS / 8, GRAIN_UNITS = 256;
  const D decoder{Tables(d.table, d.rule.bits)};
  __m512i index[D::SCALES];
  for (int v = 0; v < D::SCALES; ++v) index[v] = scale_index<0, 2>(D::LANE_BLOCK[v]);
  const int64_t units = d.rows * d.length / UNIT;
  auto body = [&](int64_t item) {
    const D local = decoder;
    uint16_t* out = static_cast<uint16_t*>(d.values);
    for (int64_t u = item * GRAIN_UNITS; u < least((item + 1) * GRAIN_UNITS, units); ++u)
      decode_unit<D, false, true>(local, d.elements + u * BYTES, 0, load<int32_t>(d.scales + 4 * u), index, out + u * UNIT);
  };
  parallel(ceil_div(units, GRAIN_UNITS), d.threads, body);
  return units * UNIT;
}

void decode_fast(const MxDecode& d) {
  if (!d.ordinary || d.values_type != MX_BF16 || d.length % BLOCK) {
    decode(d);
    return;
  }
  const int64_t done = d.rule.bits == 4       ? decode_units<Four>(d)
                       : d.rule.bits == 6     ? decode_units<Six>(d)
                       : d.rule.is_integer    ? decode_units<Eight<true>>(d)
                                              : decode_units<Eight<false>>(d);
  MxDecode rest = d;
  rest.rows = 1;
  rest.length = d.rows * d.length - done;
  rest.elements += done * d.rule.bits / 8;
  rest.scales += done / BLOCK;
  rest.values = static_cast<uint16_t*>(d.values) + done;
  if (rest.length) decode(rest);
}

void linear_fast(const MxLinear& w, const void* x, void* y, const void* bias, int64_t rows, int32_t type,
                 int32_t bias_type, int32_t threads) {
  const MxRule& rule = w.weight_rule;
  const bool bytes = multiplies_bytes(w, rows);
  auto run = w.exact          ? linear_exact
             : rule.bits == 4 ? (bytes ? linear_bytes<FourBitBytes> : linear_by<Four>)
             : rule.bits == 6 ? linear_by<Six>
             : rule.is_integer ? (bytes ? linear_bytes<IntegerBytes> : linear_by<Eight<true>>)
                               : linear_by<Eight<false>>;
  run(w, x, y, bias, rows, type, bias_type, threads);
}

}  // namespace
