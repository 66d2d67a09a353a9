// The cast of a tensor (before, length, after) along `length`: to values, or to packed codes with the blocked
// dimension moved last. Two shapes of work: blocks that lie along memory, and blocks across it (64 columns at once).
#pragma once

#include "cast_words.hpp"
#include "packing.hpp"
#include "parallel.hpp"
#include "philox.hpp"
#include "quantum.hpp"

namespace {

constexpr int TILE_BLOCKS = 16;
constexpr int64_t TILE = TILE_BLOCKS * BLOCK;
constexpr int64_t GRAIN = 1 << 14;             // elements a thread takes at once
constexpr int64_t STREAM_BYTES = 8 << 20;      // results from here on go past the caches

MX_INLINE void load_tile(const void* source, int64_t first, int64_t count, int64_t room, int32_t type, float* tile) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(tile + i, load_values(source, first + i, type));
  for (; i < count; ++i) tile[i] = load_value(source, first + i, type);
  for (; i < room; ++i) tile[i] = 0.0f;
}

struct TileScales {
  alignas(64) float value[TILE_BLOCKS], inverse[TILE_BLOCKS];
  alignas(64) int32_t whole[TILE_BLOCKS];
  alignas(64) uint8_t code[TILE_BLOCKS];
};

MX_INLINE void scale_tile(const float* tile, int64_t blocks, const Rule& rule, TileScales& out) {
  vi m[TILE_BLOCKS];
  for (int b = 0; b < TILE_BLOCKS; ++b) {
    if (b < blocks) {
      m[b] = max(load<vi>(tile + BLOCK * b) & MAGNITUDE, load<vi>(tile + BLOCK * b + LANES) & MAGNITUDE);
    } else {
      m[b] = vi{};
    }
  }
  const Scales s = make_scales(largest_of_each(m), rule);
  store(out.value, s.value);
  store(out.inverse, s.inverse);
  store(out.whole, s.whole);
  store(out.code, __builtin_convertvector(s.code, vb));
}

// A job's constants for both ways to compute.
struct Rules {
  Rule rule;
#if defined(MX_WORDS)
  WordRule words;
  bool words_fit;
  explicit Rules(const MxCast& c) : rule(c.rule), words(c.rule), words_fit(takes_words(c, words)) {}
#else
  explicit Rules(const MxCast& c) : rule(c.rule) {}
#endif
};

template <bool STOCHASTIC>
MX_INLINE Rounded round_lanes(vf v, vf inverse, const float* threshold, const Rule& rule) {
  if constexpr (STOCHASTIC) return round_stochastic(v, inverse, load<vf>(threshold), rule);
  return round_nearest(v, inverse, rule);
}

// One tile of up to 16 blocks along memory. `first`: linear index of its first element in the source; `to`: in values.
template <bool STOCHASTIC>
void cast_tile(const MxCast& c, const Rules& rules, int64_t row, int64_t k, int64_t length, int64_t out_length,
               bool streams) {
  const Rule& rule = rules.rule;
  const int64_t valid = least(length - k, TILE), kept = least(out_length - k, TILE);
  const int64_t blocks = ceil_div(kept, BLOCK), first = row * length + k, to = row * out_length + k;
  const int64_t row_bytes = ceil_div(length * rule.bits, 8), block_bytes = 4 * rule.bits;
  uint8_t* elements = c.elements ? c.elements + row * row_bytes + k / BLOCK * block_bytes : nullptr;
  uint8_t* scale_codes = c.elements ? c.scales + row * ceil_div(length, BLOCK) + k / BLOCK : nullptr;
#if defined(MX_WORDS)
  if (!STOCHASTIC && rules.words_fit &&
      cast_word_tile(c, rule, rules.words, first, valid, blocks, to, streams, elements,
                     row_bytes - k / BLOCK * block_bytes, scale_codes))
    return;
#endif
  const char* ahead = static_cast<const char*>(c.source) + (first + 2 * TILE) * width(c.source_type);
  for (int64_t line = 0; line < TILE * width(c.source_type); line += 64) __builtin_prefetch(ahead + line, 0, 2);
  alignas(64) float staged[TILE];
  const float* tile = staged;
  if (c.source_type == MX_F32 && valid == blocks * BLOCK && !c.hadamard.on) {
    tile = static_cast<const float*>(c.source) + first;
  } else {
    load_tile(c.source, first, valid, blocks * BLOCK, c.source_type, staged);
  }
  if (c.hadamard.on) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t position = (k + BLOCK * b) % c.out_length;
      hadamard_block(staged + BLOCK * b, sign_bits(c.hadamard, static_cast<uint64_t>(position / BLOCK)));
    }
  }
  alignas(64) float drawn[STOCHASTIC ? TILE + DRAWN_ROOM : 1];
  const float* threshold = drawn;
  if constexpr (STOCHASTIC) threshold = thresholds(c.rounding, static_cast<uint64_t>(to), kept, drawn);
  TileScales scales;
  scale_tile(tile, blocks, rule, scales);
  if (c.elements) {
    std::memcpy(scale_codes, scales.code, static_cast<size_t>(blocks));
    for (int64_t b = 0; b < blocks; ++b) {
      const vf inverse = splat(scales.inverse[b]);
      const vi whole = splat(scales.whole[b]);
      vb codes[2];
      MX_UNROLL for (int h = 0; h < 2; ++h) {
        const int64_t at = BLOCK * b + LANES * h;
        const Rounded q = round_lanes<STOCHASTIC>(load<vf>(tile + at), inverse, threshold + (STOCHASTIC ? at : 0), rule);
        codes[h] = __builtin_convertvector(to_code(q, whole, rule), vb);
      }
      const int64_t bytes = least(row_bytes - (k / BLOCK + b) * block_bytes, block_bytes);
      if (bytes == block_bytes && block_bytes != 24) {
        pack_block(codes[0], codes[1], rule.bits, elements + b * block_bytes);
      } else {
        uint8_t packed[BLOCK];
        pack_block(codes[0], codes[1], rule.bits, packed);
        std::memcpy(elements + b * block_bytes, packed, static_cast<size_t>(bytes));
      }
    }
    return;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const vf inverse = splat(scales.inverse[b]), scale = splat(scales.value[b]);
    for (int h = 0; h < 2; ++h) {
      const int64_t at = BLOCK * b + LANES * h;
      const Rounded q = round_lanes<STOCHASTIC>(load<vf>(tile + at), inverse, threshold + (STOCHASTIC ? at : 0), rule);
      const vf y = to_value(q, scale, rule);
      if (at + LANES <= kept) {
        if (streams) {
          stream_values(c.values, to + at, c.values_type, y);
        } else {
          store_values(c.values, to + at, c.values_type, y);
        }
      } else {
        for (int64_t i = at; i < kept; ++i) store_value(c.values, to + i, c.values_type, y[i - at]);
      }
    }
  }
}

MX_INLINE bool may_stream(const MxCast& c, int64_t elements) {
  return c.values && elements * width(c.values_type) >= STREAM_BYTES &&
         reinterpret_cast<uintptr_t>(c.values) % 64 == 0;
}

template <bool STOCHASTIC>
void cast_along(const MxCast& c) {
  const Rules rules(c);
  // Whole blocks follow each other through all rows: then everything is one row.
  const bool whole = c.length % BLOCK == 0;
  const int64_t rows = whole ? 1 : c.before, length = whole ? c.before * c.length : c.length;
  const int64_t out_length = whole ? length : c.out_length;
  const bool streams = whole && may_stream(c, rows * length);
  const int64_t tiles = ceil_div(out_length, TILE), grain = GRAIN / TILE;
  const int64_t total = rows * tiles;
  auto body = [&](int64_t item) {
    for (int64_t t = item * grain; t < least((item + 1) * grain, total); ++t)
      cast_tile<STOCHASTIC>(c, rules, t / tiles, t % tiles * TILE, length, out_length, streams);
  };
  parallel(ceil_div(total, grain), c.threads, body);
}

// Codes and scales of a strip, one column per block, to their packed rows.
void store_columns(const MxCast& c, int64_t before, int64_t block, int64_t column, int64_t columns, const uint8_t* codes,
                   const uint8_t* scales) {
  const int bits = c.rule.bits;
  alignas(64) uint8_t packed[STRIP][32];
  pack_columns(codes, bits, packed[0]);
  const int64_t row_bytes = ceil_div(c.length * bits, 8), block_bytes = 4 * bits;
  const int64_t blocks = ceil_div(c.length, BLOCK), bytes = least(row_bytes - block * block_bytes, block_bytes);
  for (int64_t j = 0; j < columns; ++j) {
    const int64_t row = before * c.after + column + j;
    uint8_t* out = c.elements + row * row_bytes + block * block_bytes;
    if (bytes == 16) {
      std::memcpy(out, packed[j], 16);
    } else if (bytes == 32) {
      std::memcpy(out, packed[j], 32);
    } else {
      std::memcpy(out, packed[j], static_cast<size_t>(bytes));
    }
    c.scales[row * blocks + block] = scales[j];
  }
}

// 32 positions along `length` by up to 64 columns of `after`, in float32 lanes. Codes: a byte each, codes[32][STRIP].
template <bool STOCHASTIC>
void cast_strip_lanes(const MxCast& c, const Rule& rule, int64_t before, int64_t block, int64_t column, int64_t columns,
                      bool streams, uint8_t* codes, uint8_t* scale_codes) {
  const int64_t k = block * BLOCK, vectors = ceil_div(columns, LANES);
  const int64_t valid = least(c.length - k, BLOCK), kept = least(c.out_length - k, BLOCK);
  alignas(64) float tile[BLOCK][STRIP];
  for (int64_t i = 0; i < BLOCK; ++i) {
    const int64_t count = i < valid ? columns : 0;
    load_tile(c.source, (before * c.length + k + i) * c.after + column, count, vectors * LANES, c.source_type, tile[i]);
  }
  if (c.hadamard.on) {
    const uint32_t signs = sign_bits(c.hadamard, static_cast<uint64_t>(block));
    for (int64_t j = 0; j < columns; j += LANES) {
      vf v[BLOCK];
      for (int i = 0; i < BLOCK; ++i) {
        const vf x = load<vf>(tile[i] + j);
        v[i] = signs >> i & 1u ? -x : x;
      }
      for (int d = 1; d < BLOCK; d *= 2)
        for (int i = 0; i < BLOCK; ++i)
          if (!(i & d)) {
            const vf a = v[i], b = v[i + d];
            v[i] = a + b;
            v[i + d] = a - b;
          }
      for (int i = 0; i < BLOCK; ++i) store(tile[i] + j, v[i] * HADAMARD_NORM);
    }
  }
  Scales scales[STRIP / LANES];
  for (int64_t s = 0; s < vectors; ++s) {
    vi amax = vi{};
    for (int64_t i = 0; i < BLOCK; ++i) amax = max(amax, load<vi>(tile[i] + LANES * s) & MAGNITUDE);
    scales[s] = make_scales(amax, rule);
  }
  alignas(64) float drawn[STOCHASTIC ? RUNS * DRAWN : 1];
  const float* of_row[RUNS] = {drawn};
  int64_t drawn_from = 0, drawn_to = 0;
  for (int64_t i = 0; i < BLOCK; ++i) {
    const int64_t to = (before * c.out_length + k + i) * c.after + column;
    if (STOCHASTIC && i == drawn_to) {
      drawn_from = i;
      drawn_to += row_thresholds(c.rounding, static_cast<uint64_t>(to), static_cast<uint64_t>(c.after), drawn, of_row);
    }
    const float* threshold = of_row[STOCHASTIC ? i - drawn_from : 0];
    for (int64_t s = 0; s < vectors; ++s) {
      const int64_t at = LANES * s;
      const float* t = threshold + (STOCHASTIC ? at : 0);
      const Rounded q = round_lanes<STOCHASTIC>(load<vf>(tile[i] + at), scales[s].inverse, t, rule);
      if (c.elements) {
        store(codes + i * STRIP + at, __builtin_convertvector(to_code(q, scales[s].whole, rule), vb));
      } else if (i < kept) {
        const vf y = to_value(q, scales[s].value, rule);
        if (at + LANES > columns) {
          for (int64_t j = at; j < columns; ++j) store_value(c.values, to + j, c.values_type, y[j - at]);
        } else if (streams) {
          stream_values(c.values, to + at, c.values_type, y);
        } else {
          store_values(c.values, to + at, c.values_type, y);
        }
      }
    }
  }
  if (c.elements)
    for (int64_t s = 0; s < vectors; ++s) store(scale_codes + LANES * s, __builtin_convertvector(scales[s].code, vb));
}

template <bool STOCHASTIC>
void cast_strip(const MxCast& c, const Rules& rules, int64_t before, int64_t block, int64_t column, bool streams) {
  const int64_t columns = least(c.after - column, STRIP);
  alignas(64) uint8_t codes[BLOCK * STRIP], scales[STRIP];
  // In parts that are read whole before they are written: the result may lie where the source does.
#if defined(MX_WORDS)
  const int64_t part = !STOCHASTIC && rules.words_fit ? BLOCK : STRIP;
#else
  constexpr int64_t part = STRIP;
#endif
  for (int64_t j = 0; j < columns; j += part) {
    const int64_t some = least(columns - j, part);
#if defined(MX_WORDS)
    const int64_t k = block * BLOCK, first = (before * c.length + k) * c.after + column + j;
    if (part == BLOCK && cast_word_strip(c, rules.rule, rules.words, first, least(c.length - k, BLOCK), some, streams,
                                         c.elements ? codes + j : nullptr, scales + j))
      continue;
#endif
    cast_strip_lanes<STOCHASTIC>(c, rules.rule, before, block, column + j, some, streams, codes + j, scales + j);
  }
  if (c.elements) store_columns(c, before, block, column, columns, codes, scales);
}

template <bool STOCHASTIC>
void cast_across(const MxCast& c) {
  const Rules rules(c);
  const int64_t blocks = ceil_div(c.out_length, BLOCK), strips = ceil_div(c.after, STRIP);
  const bool streams = c.after % BLOCK == 0 && may_stream(c, c.before * c.out_length * c.after);
  // A packed row is written block by block: neighbouring blocks of a strip go to one thread, one after the other.
  const int64_t run = c.elements ? least(blocks, 8) : 1, runs = ceil_div(blocks, run);
  const int64_t width = c.elements ? 1 : ceil_div(GRAIN, BLOCK * STRIP), groups = ceil_div(strips, width);
  auto body = [&](int64_t item) {
    const int64_t before = item / (runs * groups), rest = item % (runs * groups);
    const int64_t block = rest / groups * run, strip = rest % groups * width;
    for (int64_t s = strip; s < least(strip + width, strips); ++s)
      for (int64_t b = block; b < least(block + run, blocks); ++b)
        cast_strip<STOCHASTIC>(c, rules, before, b, s * STRIP, streams);
  };
  parallel(c.before * runs * groups, c.threads, body);
}

void cast(const MxCast& c) {
  if (c.after == 1) {
    c.rounding.on ? cast_along<true>(c) : cast_along<false>(c);
  } else {
    c.rounding.on ? cast_across<true>(c) : cast_across<false>(c);
  }
}

}  // namespace
