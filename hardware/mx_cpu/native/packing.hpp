// Element codes of 4, 6 or 8 bits to and from bytes, little-endian (mx_plugin/formats/packing.py).
#pragma once

#include "lanes.hpp"

namespace {

using vb32 = uint8_t __attribute__((vector_size(32), may_alias));
using vw8 = uint32_t __attribute__((vector_size(32), may_alias));

// 32 codes, in two halves, to 4 * bits bytes; `out` must have room for 32. The halves are joined in registers:
// a load over two fresh stores would wait for both.
MX_INLINE void pack_block(vb low, vb high, int bits, uint8_t* out) {
  if (bits == 8) {
    store(out, low);
    store(out + LANES, high);
    return;
  }
  const vb32 codes = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18,
                                             19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
  if (bits == 4) {
    const vh pairs = bit_cast<vh>(codes);
    store(out, __builtin_convertvector((pairs | pairs >> 4) & static_cast<uint16_t>(0xFF), vb));
  } else {
    const vw8 q = bit_cast<vw8>(codes);
    const vw8 packed = (q & 0x3Fu) | (q >> 2 & 0xFC0u) | (q >> 4 & 0x3F000u) | (q >> 6 & 0xFC0000u);
    for (int i = 0; i < 8; ++i) {
      const uint32_t three = packed[i];
      std::memcpy(out + 3 * i, &three, 4);  // the fourth byte is overwritten by the next
    }
  }
}

// 4 * bits bytes to 32 codes; reads only those bytes.
MX_INLINE void unpack_block(const uint8_t* packed, int bits, uint8_t* codes) {
  if (bits == 8) {
    store(codes, load<vb32>(packed));
  } else if (bits == 4) {
    const vh pairs = __builtin_convertvector(load<vb>(packed), vh);
    store(codes, (pairs | pairs << 4) & static_cast<uint16_t>(0x0F0F));
  } else {
    vw8 q;
    for (int i = 0; i < 8; ++i) {
      q[i] = static_cast<uint32_t>(packed[3 * i]) | static_cast<uint32_t>(packed[3 * i + 1]) << 8 |
             static_cast<uint32_t>(packed[3 * i + 2]) << 16;
    }
    store(codes, (q & 0x3Fu) | (q << 2 & 0x3F00u) | (q << 4 & 0x3F0000u) | (q << 6 & 0x3F000000u));
  }
}

// Code of element k in a packed row.
MX_INLINE uint8_t unpack_one(const uint8_t* row, int bits, int64_t k) {
  if (bits == 8) return row[k];
  if (bits == 4) return k % 2 ? row[k / 2] >> 4 : row[k / 2] & 0xF;
  const int64_t bit = 6 * k, byte = bit / 8;
  const int shift = static_cast<int>(bit % 8);
  unsigned two = row[byte];
  if (shift > 2) two |= static_cast<unsigned>(row[byte + 1]) << 8;
  return static_cast<uint8_t>(two >> shift & 0x3F);
}

// 16 x 16 bytes, rows `stride` apart, to their transpose, rows `to_stride` apart.
MX_INLINE void transpose16(const uint8_t* from, int64_t stride, uint8_t* to, int64_t to_stride) {
  vb x[16], t[16];
  for (int i = 0; i < 16; ++i) x[i] = load<vb>(from + i * stride);
  for (int stage = 0; stage < 4; ++stage) {
    for (int i = 0; i < 8; ++i) {
      t[2 * i] = __builtin_shufflevector(x[i], x[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      t[2 * i + 1] =
          __builtin_shufflevector(x[i], x[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    for (int i = 0; i < 16; ++i) x[i] = t[i];
  }
  for (int i = 0; i < 16; ++i) store(to + i * to_stride, x[i]);
}

constexpr int STRIP = 64;

// Codes[32][STRIP], one column per block, to columns[STRIP][32], of which the first 4 * bits bytes are the packed block.
MX_INLINE void pack_columns(const uint8_t* codes, int bits, uint8_t* columns) {
  alignas(64) uint8_t bytes[32][STRIP];
  const int rows = 4 * bits;
  if (bits == 8) {
    std::memcpy(bytes, codes, sizeof(bytes));
  } else if (bits == 4) {
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < STRIP; ++j)
        bytes[i][j] = static_cast<uint8_t>(codes[2 * i * STRIP + j] | codes[(2 * i + 1) * STRIP + j] << 4);
  } else {
    for (int i = 0; i < 8; ++i) {
      const uint8_t* quad = codes + 4 * i * STRIP;
      for (int j = 0; j < STRIP; ++j) {
        const unsigned a = quad[j], b = quad[STRIP + j], c = quad[2 * STRIP + j], d = quad[3 * STRIP + j];
        bytes[3 * i][j] = static_cast<uint8_t>(a | b << 6);
        bytes[3 * i + 1][j] = static_cast<uint8_t>(b >> 2 | c << 4);
        bytes[3 * i + 2][j] = static_cast<uint8_t>(c >> 4 | d << 2);
      }
    }
    std::memset(bytes[24], 0, 8 * STRIP);
  }
  for (int j = 0; j < STRIP; j += 16)
    for (int i = 0; i < rows; i += 16) transpose16(bytes[i] + j, STRIP, columns + 32 * j + i, 32);
}

}  // namespace
