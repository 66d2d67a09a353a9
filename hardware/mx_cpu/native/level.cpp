// One level of kernels: compiled once per instruction set, with MX_LEVEL its name.
#include "cast.hpp"
#include "cast_transposed.hpp"
#include "decode.hpp"
#include "linear_exact.hpp"

#if defined(__AMX_BF16__)
#include "linear_amx.hpp"
#elif defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#include "linear_bf16.hpp"
#endif

#define MX_JOIN_(a, b) a##b
#define MX_JOIN(a, b) MX_JOIN_(a, b)
#define MX_TEXT_(a) #a
#define MX_TEXT(a) MX_TEXT_(a)

#if defined(__AMX_BF16__)
// Tiles multiply only: everything else is the level below.
namespace {
void below_cast(const MxCast& job) { mx_kernels_avx512.cast(job); }
void below_decode(const MxDecode& job) { mx_kernels_avx512.decode(job); }
}  // namespace
#define MX_KERNELS below_cast, below_decode, linear_amx
#elif defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#define MX_KERNELS cast_either, decode_fast, linear_fast
#else
#define MX_KERNELS cast_either, decode, linear_exact
#endif

extern const MxKernels MX_JOIN(mx_kernels_, MX_LEVEL);
const MxKernels MX_JOIN(mx_kernels_, MX_LEVEL) = {MX_TEXT(MX_LEVEL), MX_KERNELS};
