// A matrix blocked along its rows' dimension, cast and written transposed: what a product wants whose left operand is
// blocked along the dimension that does not lie along memory.
#pragma once

#include <cstdlib>
#include <utility>

#include "cast.hpp"

namespace {

constexpr int64_t TRANSPOSED_RUN = 8;  // blocks of a strip that a thread takes at once

using vw = uint16_t __attribute__((vector_size(64), may_alias));

// Exchanges the off-diagonal blocks of D lanes of two rows that lie D apart.
template <int D, std::size_t... J>
MX_INLINE void exchange(vw& upper, vw& lower, std::index_sequence<J...>) {
  const vw a = upper, b = lower;
  constexpr int side = BLOCK;
  upper = __builtin_shufflevector(a, b, (J & D ? side + static_cast<int>(J) - D : static_cast<int>(J))...);
  lower = __builtin_shufflevector(a, b, (J & D ? side + static_cast<int>(J) : static_cast<int>(J) + D)...);
}

template <int D>
MX_INLINE void exchange_rows(vw* rows) {
#pragma GCC unroll 32
  for (int i = 0; i < BLOCK; ++i)
    if (!(i & D)) exchange<D>(rows[i], rows[i + D], std::make_index_sequence<BLOCK>{});
}

// 32 x 32 numbers of 16 bits. `streams`: rows of the result are whole cache lines, and go past the caches.
void transpose_tile(const uint16_t* from, int64_t from_stride, uint16_t* to, int64_t to_stride, bool streams) {
  vw rows[BLOCK];
#pragma GCC unroll 32
  for (int i = 0; i < BLOCK; ++i) rows[i] = load<vw>(from + i * from_stride);
  exchange_rows<16>(rows);
  exchange_rows<8>(rows);
  exchange_rows<4>(rows);
  exchange_rows<2>(rows);
  exchange_rows<1>(rows);
#if defined(__AVX512F__)
  if (streams) {
#pragma GCC unroll 32
    for (int i = 0; i < BLOCK; ++i)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i * to_stride), bit_cast<__m512i>(rows[i]));
    return;
  }
#endif
#pragma GCC unroll 32
  for (int i = 0; i < BLOCK; ++i) store(to + i * to_stride, rows[i]);
}

// to (columns, rows) = from (rows, columns), at most 32 rows.
void transpose_rows(const uint16_t* from, int64_t from_stride, int64_t rows, int64_t columns, uint16_t* to,
                    int64_t to_stride, bool streams) {
  int64_t j = 0;
  if (rows == BLOCK)
    for (; j + BLOCK <= columns; j += BLOCK) transpose_tile(from + j, from_stride, to + j * to_stride, to_stride, streams);
  for (; j < columns; ++j)
    for (int64_t i = 0; i < rows; ++i) to[j * to_stride + i] = from[i * from_stride + j];
}

// Strip by strip: cast as ever, into 32 rows that stay in the cache, and from there to where they belong. A thread takes
// neighbouring blocks of one strip, which lie side by side in the result.
template <bool STOCHASTIC>
void cast_transposed(const MxCast& c) {
  const Rules rules(c);
  const int64_t blocks = ceil_div(c.out_length, BLOCK), strips = ceil_div(c.after, STRIP);
  const int64_t runs = ceil_div(blocks, TRANSPOSED_RUN);
  const bool streams = c.out_length % BLOCK == 0 && may_stream(c, c.out_length * c.after);
  uint16_t* const values = static_cast<uint16_t*>(c.values);
  auto body = [&](int64_t item) {
    const int64_t column = item / runs * STRIP, start = item % runs * TRANSPOSED_RUN;
    uint16_t* rows = static_cast<uint16_t*>(mx_scratch(0, BLOCK * c.after * 2));
    if (!rows) std::abort();  // no memory for 32 rows, and nobody to tell
    MxCast part = c;
    for (int64_t block = start; block < least(start + TRANSPOSED_RUN, blocks); ++block) {
      const int64_t k = block * BLOCK;
      // The cast writes, and counts its draws, by position in the whole matrix.
      part.values = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(rows) - static_cast<uintptr_t>(k * c.after * 2));
      cast_strip<STOCHASTIC>(part, rules, 0, block, column, false);
      transpose_rows(rows + column, c.after, least(c.out_length - k, BLOCK), least(c.after - column, STRIP),
                     values + column * c.out_length + k, c.out_length, streams);
    }
  };
  parallel(strips * runs, c.threads, body);
}

void cast_either(const MxCast& c) {
  if (!c.transposed) {
    cast(c);
  } else {
    c.rounding.on ? cast_transposed<true>(c) : cast_transposed<false>(c);
  }
}

}  // namespace
