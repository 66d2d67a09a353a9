// The plain C interface: what crosses from Python (mx_cpu/library.py mirrors these structs field by field).
#pragma once

#include <cstdint>

enum MxType : int32_t { MX_F32 = 0, MX_BF16 = 1, MX_F16 = 2 };

// An element type and a cast's constants, as mx_plugin.formats.rules.CastRule has them.
struct MxRule {
  int32_t bits;           // of an element: 4, 6 or 8
  int32_t mantissa_bits;
  int32_t emin;
  int32_t max_code;       // code of the largest magnitude a cast makes, without sign
  int32_t is_integer;     // two's complement
  int32_t offset;         // added to the bits of amax before its exponent is kept
  int32_t doubled;        // amax is doubled first
  float max;              // the value of max_code
};

// Philox counter and key words, see mx_plugin/formats/philox.py; `on` = 0: not used.
struct MxKey {
  uint32_t on, seed, step, stream, call;
};

// A tensor (before, length, after), C order, blocked along `length`.
struct MxCast {
  MxRule rule;
  MxKey rounding;         // stochastic rounding
  MxKey hadamard;         // random Hadamard transform in front of the cast
  const void* source;
  void* values;           // fake-quantised result (before, out_length, after), or null
  uint8_t* elements;      // packed result: rows (before, after) of ceil(length * bits / 8) bytes, or null
  uint8_t* scales;        // with elements: (before, after, blocks)
  int64_t before, length, after;
  int64_t out_length;     // length, or rounded up to 32 under a Hadamard transform
  int32_t source_type, values_type;
  int32_t threads;
  int32_t transposed;     // 1: values (after, out_length) of a matrix (before 1) in 16 bits, apart from the source
};

// Packed rows to values (rows, length).
struct MxDecode {
  MxRule rule;
  const float* table;     // value of every element code, 2**bits entries
  const uint8_t* elements;
  const uint8_t* scales;
  void* values;
  int64_t rows, length;
  int32_t values_type;
  int32_t threads;
  int32_t ordinary;       // 1: no extreme scales, no codes that no cast makes
};

// One packed weight (out, in) and one way to cast activations: made once, used by every call.
struct MxLinear {
  MxRule weight_rule;
  MxRule activation_rule;
  const float* table;     // of the weight's element, 2**bits entries
  const uint8_t* elements;
  const uint8_t* scales;
  int64_t out, in;
  int32_t quantised;      // 0: activations are left as they are
  int32_t exact;          // 1: always take the exact path (extreme scales, codes that no cast makes)
};

// A level's kernels; every level is the same source compiled for another instruction set.
struct MxKernels {
  const char* name;
  void (*cast)(const MxCast&);
  void (*decode)(const MxDecode&);
  void (*linear)(const MxLinear&, const void* x, void* y, const void* bias, int64_t rows, int32_t type,
                 int32_t bias_type, int32_t threads);
};
