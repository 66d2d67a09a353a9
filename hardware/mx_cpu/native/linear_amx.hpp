// The product on AMX tiles (tdpbf16ps): 16 weight rows by 16 activation rows by 32 elements an instruction.
//
// A tile of weights is 16 rows of one decoded block each, as they come out of the decoder; a tile of activations holds
// pairs of elements by columns (Intel SDM, TDPBF16PS), so activations are transposed once a call. The order of every sum
// is that of the blocks, whatever the number of rows or threads: a row's result does not depend on its neighbours (a row
// that comes alone is multiplied without tiles, in another order).
#pragma once

#include <type_traits>

#include "activations.hpp"
#include "linear_exact.hpp"
#include "weight_blocks.hpp"

extern const MxKernels mx_kernels_avx512;  // the level below

namespace {

constexpr int64_t SIDE = 16;                   // rows and columns of a tile of sums
constexpr int64_t TILE_WORDS = SIDE * BLOCK;   // bfloat16 in a tile of weights or activations
constexpr int64_t SPAN_WORDS = TILE_BLOCKS * TILE_WORDS;
constexpr int64_t SUMS = SIDE * SIDE;
constexpr int64_t ROWS_AT_ONCE = 512;          // activation rows whose sums and operands stay in the second-level cache

struct TileConfig {
  alignas(64) uint8_t bytes[64] = {};
  constexpr TileConfig() {
    bytes[0] = 1;
    for (int t = 0; t < 8; ++t) {
      bytes[16 + 2 * t] = 64;  // bytes a row
      bytes[48 + t] = SIDE;    // rows
    }
  }
};

// The tile registers for the time of one item; oneDNN's kernels, which share the threads, load their own.
class Tiles {
 public:
  Tiles() { _tile_loadconfig(&config); }
  ~Tiles() { _tile_release(); }

 private:
  // Made by the compiler: a constructor would run these instructions when the library is loaded, on any processor.
  static constexpr TileConfig config{};
};

MX_INLINE void transpose_dwords(__m512i* r) {
  __m512i t[16];
  MX_UNROLL for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  MX_UNROLL for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  MX_UNROLL for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
  }
  MX_UNROLL for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
  }
}

// Activations as tiles: (spans, groups, 16 blocks, 16 pairs of elements, 16 rows). A span of all groups is contiguous:
// groups a power of two apart would share a few cache sets. Planes are groups of their own.
struct ActivationTiles {
  const uint16_t* data;
  int64_t groups;
  int64_t each;  // groups of one plane
  int planes;
};

bool prepare_tiles(const MxLinear& w, const void* x, int64_t rows, int32_t type, int32_t threads, ActivationTiles& out) {
  const int planes = planes_of(w, type);
  const int64_t blocks = ceil_div(w.in, BLOCK), each = ceil_div(rows, SIDE), spans = ceil_div(blocks, TILE_BLOCKS);
  uint16_t* data = static_cast<uint16_t*>(mx_scratch(0, planes * each * spans * SPAN_WORDS * 2));
  const ActivationRule rule(w);
  int outside = 0;
  auto body = [&](int64_t item) {
    const int64_t group = item / spans, block = item % spans * TILE_BLOCKS, m0 = group * SIDE;
    const int64_t count = least(rows - m0, SIDE), some = least(blocks - block, TILE_BLOCKS);
    alignas(64) uint16_t natural[SIDE][MAX_PLANES * TILE];
    for (int64_t m = 0; m < count; ++m)
      if (!activation_tile(w, rule, x, m0 + m, block * BLOCK, some * BLOCK, type, planes, TILE, natural[m]))
        __atomic_store_n(&outside, 1, __ATOMIC_RELAXED);
    for (int p = 0; p < planes; ++p) {
      uint16_t* to = data + ((block / TILE_BLOCKS * planes + p) * each + group) * SPAN_WORDS;
      for (int64_t b = 0; b < some; ++b, to += TILE_WORDS) {
        __m512i r[SIDE];
        for (int64_t m = 0; m < SIDE; ++m)
          r[m] = m < count ? _mm512_load_si512(natural[m] + p * TILE + b * BLOCK) : _mm512_setzero_si512();
        transpose_dwords(r);
        for (int64_t i = 0; i < SIDE; ++i) _mm512_store_si512(to + i * BLOCK, r[i]);
      }
    }
  };
  parallel(each * spans, rows * w.in < (1 << 15) ? 1 : threads, body);
  out = {data, planes * each, each, planes};
  return !outside;
}

// The packed rows of a weight, and where they end.
template <class D>
struct PackedRows {
  const D decoder;
  const uint8_t *elements, *scales, *end;
  int64_t row_bytes, blocks, out;

  PackedRows(const MxLinear& w)
      : decoder(w.weight_rule, scale_tables<D>(w.weight_rule, w.table)),
        elements(w.elements),
        scales(w.scales),
        row_bytes(ceil_div(w.in * w.weight_rule.bits, 8)),
        blocks(ceil_div(w.in, BLOCK)),
        out(w.out) {
    end = elements + out * row_bytes;
  }

  // COUNT blocks of one row from block `first` on, one after the other; only those that are there.
  template <int COUNT>
  MX_INLINE void decode(const PackedRows& w, int64_t row, int64_t first, uint16_t* to) {
    if (row >= w.out) return;
    const uint8_t *p = w.elements + row * w.row_bytes + first * D::BYTES, *s = w.scales + row * w.blocks + first;
    const int64_t left = w.row_bytes - first * D::BYTES;
    if (left >= COUNT * D::BYTES) {
      MX_UNROLL for (int b = 0; b < COUNT; ++b)
        _mm512_store_si512(to + b * BLOCK, w.decoder.block(D::whole(p + b * D::BYTES), s[b]));
      return;
    }
    int64_t b = 0;
    for (; (b + 1) * D::BYTES <= left; ++b)
      _mm512_store_si512(to + b * BLOCK, w.decoder.block(D::whole(p + b * D::BYTES), s[b]));
    if (b * D::BYTES < left)
      _mm512_store_si512(to + b * BLOCK, w.decoder.block(D::part(p + b * D::BYTES, left - b * D::BYTES), s[b]));
  }
};

// What becomes of the sums: planes added, bias, the output's type.
struct Output {
  void* y;
  const void* bias;
  int64_t rows, out;
  int32_t type, bias_type;

  // Tiles (planes, 16 weight rows, 16 activation rows), `plane` floats apart, for weight rows from n0 and rows from m0.
  void emit(const float* sums, int planes, int64_t plane, int64_t n0, int64_t m0) const {
    __m512i r[SIDE];
    for (int64_t i = 0; i < SIDE; ++i) {
      vf v = load<vf>(sums + i * SIDE);
      for (int p = 1; p < planes; ++p) v += load<vf>(sums + p * plane + i * SIDE);
      r[i] = bit_cast<__m512i>(v);
    }
    transpose_dwords(r);
    const int64_t count = least(out - n0, SIDE);
    const vf shift = !bias ? vf{} : count == SIDE ? load_values(bias, n0, bias_type) : some(n0, count);
    for (int64_t m = 0; m < least(rows - m0, SIDE); ++m) {
      vf v = bit_cast<vf>(r[m]);
      if (bias) v += shift;
      const int64_t at = (m0 + m) * out + n0;
      if (count == SIDE) {
        store_values(y, at, type, v);
      } else {
        for (int64_t i = 0; i < count; ++i) store_value(y, at + i, type, v[i]);
      }
    }
  }

 private:
  vf some(int64_t n0, int64_t count) const {
    vf v{};
    for (int64_t i = 0; i < count; ++i) v[i] = load_value(bias, n0 + i, bias_type);
    return v;
  }
};

constexpr int64_t PAIR = 2 * SIDE;  // weight rows that share a loaded tile of activations
constexpr int64_t SPAN = 8;         // blocks of a row decoded at a time
// From one decoded row to the next: with a line to spare, or the rows of a tile would share a few cache sets.
constexpr int64_t DECODED = SPAN * BLOCK + BLOCK;

// Sums 0 .. 3 += two tiles of weights times one or two tiles of activations.
template <int GROUPS>
MX_INLINE void multiply_block(const uint16_t* a, const uint16_t* b) {
  _tile_loadd(6, b, 64);
  _tile_loadd(4, a, DECODED * 2);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(5, a + SIDE * DECODED, DECODED * 2);
  _tile_dpbf16ps(1, 5, 6);
  if constexpr (GROUPS == 2) {
    _tile_loadd(7, b + SPAN_WORDS, 64);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
}

MX_INLINE void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// Sums 0 .. 3 to memory: two tiles of weights beside each other, groups `group` floats apart.
template <int GROUPS>
MX_INLINE void store_sums(float* to, int64_t group) {
  _tile_stored(0, to, 64);
  _tile_stored(1, to + SUMS, 64);
  if constexpr (GROUPS == 2) {
    _tile_stored(2, to + group, 64);
    _tile_stored(3, to + group + SUMS, 64);
  }
}

template <int GROUPS>
MX_INLINE void load_sums(const float* from, int64_t group) {
  _tile_loadd(0, from, 64);
  _tile_loadd(1, from + SUMS, 64);
  if constexpr (GROUPS == 2) {
    _tile_loadd(2, from + group, 64);
    _tile_loadd(3, from + group + SUMS, 64);
  }
}

// Into the second-level cache; an address past the end does no harm.
MX_INLINE void prefetch(const uint8_t* p, int64_t bytes) {
  for (int64_t line = 0; line < bytes; line += 64) _mm_prefetch(reinterpret_cast<const char*>(p + line), _MM_HINT_T1);
}

// One or two groups of activation rows: their sums stay in tile registers over the whole length.
template <class D, int GROUPS>
void few_rows(const PackedRows<D>& rows, const uint16_t* x, int64_t n0, float* sums) {
  const PackedRows<D> w = rows;
  alignas(64) uint16_t decoded[PAIR * DECODED];
  zero_sums();
  prefetch(w.scales + (n0 + PAIR) * w.blocks, PAIR * w.blocks);
  for (int64_t first = 0; first < w.blocks; first += SPAN) {
    // Many rows are read side by side, more than the processor looks ahead over by itself: two spans on in the same rows,
    // or in those of the next strip.
    const int64_t on = first + 2 * SPAN, spans = ceil_div(w.blocks, SPAN) * SPAN;
    const uint8_t* ahead = w.elements + (on < spans ? n0 : n0 + PAIR) * w.row_bytes + (on < spans ? on : on - spans) * D::BYTES;
    for (int64_t r = 0; r < PAIR; ++r) {
      prefetch(ahead + r * w.row_bytes, SPAN * D::BYTES);
      PackedRows<D>::template decode<SPAN>(w, n0 + r, first, decoded + r * DECODED);
    }
    const uint16_t* b = x + first / TILE_BLOCKS * GROUPS * SPAN_WORDS + first % TILE_BLOCKS * TILE_WORDS;
    for (int64_t i = 0; i < least(w.blocks - first, SPAN); ++i, b += TILE_WORDS)
      multiply_block<GROUPS>(decoded + i * BLOCK, b);
  }
  store_sums<GROUPS>(sums, 2 * SUMS);
}

// Sums (groups, strip tiles) of a strip of weight rows, kept in memory between spans of the length.
template <class D>
void many_rows(const PackedRows<D>& rows, const uint16_t* x, int64_t groups, int64_t n0, int64_t strip, uint16_t* decoded,
               float* sums) {
  constexpr int64_t DEPTH = TILE_BLOCKS;
  static_assert(DEPTH == 2 * SPAN);
  const PackedRows<D> w = rows;
  const int64_t tiles = strip / SIDE, below = tiles * SUMS;
  for (int64_t first = 0; first < w.blocks; first += DEPTH) {
    for (int64_t r = 0; r < strip; ++r)
      for (int64_t h = 0; h < 2; ++h)
        PackedRows<D>::template decode<SPAN>(w, n0 + r, first + h * SPAN, decoded + (h * strip + r) * DECODED);
    const int64_t count = least(w.blocks - first, DEPTH);
    // A pair of weight tiles stays in the first cache while the activations pass by.
    for (int64_t t = 0; t < tiles; t += 2)
      for (int64_t g = 0; g < groups; g += 2) {
        const uint16_t *a = decoded + t * SIDE * DECODED, *b = x + (first / DEPTH * groups + g) * SPAN_WORDS;
        float* to = sums + (g * tiles + t) * SUMS;
        auto span = [&](auto number) {
          constexpr int GROUPS = decltype(number)::value;
          if (first) {
            load_sums<GROUPS>(to, below);
          } else {
            zero_sums();
          }
          for (int64_t i = 0; i < count; ++i)
            multiply_block<GROUPS>(a + i / SPAN * strip * DECODED + i % SPAN * BLOCK, b + i * TILE_WORDS);
          store_sums<GROUPS>(to, below);
        };
        g + 1 < groups ? span(std::integral_constant<int, 2>{}) : span(std::integral_constant<int, 1>{});
      }
  }
}

template <class D>
void product(const PackedRows<D>& w, const ActivationTiles& a, const Output& out, int32_t threads) {
  const bool few = a.groups <= 2;
  // Long strips read the activations less often; short ones share the work evenly.
  const int64_t strip = few ? PAIR : least(8 * PAIR, ceil_div(w.out, threads * 4 * PAIR) * PAIR);
  const int64_t strips = ceil_div(w.out, strip), run = few ? least(ceil_div(strips, 8 * threads), 8) : 1;
  auto body = [&](int64_t item) {
    const Tiles tiles;
    uint16_t* decoded = few ? nullptr : static_cast<uint16_t*>(mx_scratch(1, 2 * strip * DECODED * 2));
    float* sums = static_cast<float*>(mx_scratch(2, a.groups * strip * SIDE * 4));
    for (int64_t s = item * run; s < least((item + 1) * run, strips); ++s) {
      const int64_t n0 = s * strip, per_group = strip / SIDE * SUMS;
      if (a.groups == 1) {
        few_rows<D, 1>(w, a.data, n0, sums);
      } else if (a.groups == 2) {
        few_rows<D, 2>(w, a.data, n0, sums);
      } else {
        many_rows<D>(w, a.data, a.groups, n0, strip, decoded, sums);
      }
      for (int64_t g = 0; g < a.each; ++g)
        for (int64_t n = 0; n < strip && n0 + n < w.out; n += SIDE)
          out.emit(sums + g * per_group + n / SIDE * SUMS, a.planes, a.each * per_group, n0 + n, g * SIDE);
    }
  };
  parallel(ceil_div(strips, run), threads, body);
}

template <class D>
void linear_by(const MxLinear& w, const void* x, void* y, const void* bias, int64_t rows, int32_t type,
               int32_t bias_type, int32_t threads) {
  const PackedRows<D> packed(w);
  for (int64_t m = 0; m < rows; m += ROWS_AT_ONCE) {
    const int64_t count = least(rows - m, ROWS_AT_ONCE);
    const void* from = static_cast<const char*>(x) + m * w.in * width(type);
    void* to = static_cast<char*>(y) + m * w.out * width(type);
    ActivationTiles a;
    if (prepare_tiles(w, from, count, type, threads, a)) {
      product<D>(packed, a, {to, bias, count, w.out, type, bias_type}, threads);
    } else {
      linear_exact(w, from, to, bias, count, type, bias_type, threads);
    }
  }
}

void linear_amx(const MxLinear& w, const void* x, void* y, const void* bias, int64_t rows, int32_t type,
                int32_t bias_type, int32_t threads) {
  // For a single row 15 of 16 columns would be empty: multiplying from the decoder's registers is faster then, as
  // measured, than storing decoded blocks for the tiles.
  if (rows * planes_of(w, type) == 1 || multiplies_bytes(w, rows)) {
    mx_kernels_avx512.linear(w, x, y, bias, rows, type, bias_type, threads);
    return;
  }
  const MxRule& rule = w.weight_rule;
  auto run = w.exact               ? linear_exact
             : rule.bits == 4      ? linear_by<FourBits>
             : rule.bits == 6      ? linear_by<SixBits>
             : rule.is_integer     ? linear_by<Integers>
                                   : linear_by<EightBits>;
  run(w, x, y, bias, rows, type, bias_type, threads);
}

}  // namespace
