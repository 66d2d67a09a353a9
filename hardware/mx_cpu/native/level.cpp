// One level of kernels: compiled once per instruction set, with MX_LEVEL its name.
#include "cast.hpp"
#include "decode.hpp"
#include "linear_exact.hpp"

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#include "linear_bf16.hpp"
#define MX_LINEAR linear_fast
#define MX_DECODE decode_fast
#else
#define MX_LINEAR linear_exact
#define MX_DECODE decode
#endif

#define MX_JOIN_(a, b) a##b
#define MX_JOIN(a, b) MX_JOIN_(a, b)
#define MX_TEXT_(a) #a
#define MX_TEXT(a) MX_TEXT_(a)

extern const MxKernels MX_JOIN(mx_kernels_, MX_LEVEL);
const MxKernels MX_JOIN(mx_kernels_, MX_LEVEL) = {MX_TEXT(MX_LEVEL), cast, MX_DECODE, MX_LINEAR};
