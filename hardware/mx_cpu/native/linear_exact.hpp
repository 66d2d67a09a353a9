// The product in float32 from exactly decoded operands: every level, every value. The fast paths hand over to it
// what bfloat16 arithmetic that flushes subnormals cannot take.
#pragma once

#include "cast.hpp"
#include "decode.hpp"

namespace {

// Activations as float32 (rows, padded), zeros past `in`.
float* exact_activations(const MxLinear& w, const void* x, int64_t rows, int64_t padded, int32_t type,
                         int32_t threads) {
  float* values = static_cast<float*>(mx_scratch(0, rows * padded * 4 + 64));
  const Rule rule(w.activation_rule);
  const int64_t tiles = ceil_div(padded, TILE);
  auto body = [&](int64_t item) {
    const int64_t row = item / tiles, k = item % tiles * TILE;
    const int64_t room = least(padded - k, TILE), count = least(w.in - k, room);
    float* tile = values + row * padded + k;
    load_tile(x, row * w.in + k, count, room, type, tile);
    if (!w.quantised) return;
    TileScales scales;
    scale_tile(tile, room / BLOCK, rule, scales);
    for (int64_t at = 0; at < room; at += LANES) {
      const int64_t b = at / BLOCK;
      const Rounded q = round_nearest(load<vf>(tile + at), splat(scales.inverse[b]), rule);
      store(tile + at, to_value(q, splat(scales.value[b]), rule));
    }
    for (int64_t i = count; i < room; ++i) tile[i] = 0.0f;  // a broken block is NaN there too
  };
  parallel(rows * tiles, rows * padded < (1 << 16) ? 1 : threads, body);
  return values;
}

template <int M>
MX_INLINE void exact_dots(const float* w, const float* x, int64_t stride, int64_t padded, float* sums) {
  vf acc[M][2];
  for (int m = 0; m < M; ++m) acc[m][0] = acc[m][1] = vf{};
  for (int64_t k = 0; k < padded; k += BLOCK)
    for (int h = 0; h < 2; ++h) {
      const vf a = load<vf>(w + k + LANES * h);
      for (int m = 0; m < M; ++m) acc[m][h] += a * load<vf>(x + m * stride + k + LANES * h);
    }
  for (int m = 0; m < M; ++m) {
    const vf s = acc[m][0] + acc[m][1];
    float parts[LANES];
    store(parts, s);
    for (int d = LANES / 2; d; d /= 2)
      for (int i = 0; i < d; ++i) parts[i] += parts[i + d];
    sums[m] = parts[0];
  }
}

void linear_exact(const MxLinear& w, const void* x, void* y, const void* bias, int64_t rows, int32_t type,
                  int32_t bias_type, int32_t threads) {
  const int64_t padded = ceil_div(w.in, BLOCK) * BLOCK, blocks = padded / BLOCK;
  const int64_t row_bytes = ceil_div(w.in * w.weight_rule.bits, 8), grain = 16;
  const float* a = exact_activations(w, x, rows, padded, type, threads);
  const Decoder decoder(w.weight_rule, w.table);
  auto body = [&](int64_t item) {
    float* row = static_cast<float*>(mx_scratch(1, padded * 4 + 64));
    for (int64_t n = item * grain; n < least((item + 1) * grain, w.out); ++n) {
      for (int64_t b = 0; b < blocks; ++b)
        decoder.row_block(w.elements + n * row_bytes, w.scales[n * blocks + b], b * BLOCK, w.in, row + b * BLOCK);
      for (int64_t k = w.in; k < padded; ++k) row[k] = 0.0f;
      const float shift = bias ? load_value(bias, n, bias_type) : 0.0f;
      for (int64_t m = 0; m < rows; m += 4) {
        float sums[4];
        const float* from = a + m * padded;
        switch (rows - m) {
          case 1: exact_dots<1>(row, from, padded, padded, sums); break;
          case 2: exact_dots<2>(row, from, padded, padded, sums); break;
          case 3: exact_dots<3>(row, from, padded, padded, sums); break;
          default: exact_dots<4>(row, from, padded, padded, sums);
        }
        for (int64_t i = 0; i < least(rows - m, 4); ++i)
          store_value(y, (m + i) * w.out + n, type, bias ? sums[i] + shift : sums[i]);
      }
    }
  };
  parallel(ceil_div(w.out, grain), threads, body);
}

}  // namespace
