"""Element codes and E8M0 scales to float32, by bit arithmetic, in registers.

Float32 subnormals must be kept, which is Triton's default: a code's bits are read as a float32 with the element's
exponent field, and one multiplication moves them to the element's range, subnormal elements included.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def element_values(
    codes, BITS: tl.constexpr, MANTISSA: tl.constexpr, EMIN: tl.constexpr, MAX_CODE: tl.constexpr, INTEGER: tl.constexpr
):
    """float32 values of int32 codes (0 .. 2**BITS - 1), in units of the scale; see ``formats.decode``."""
    if INTEGER:
        signed = tl.where(codes >= 128, codes - 256, codes)
        values = signed.to(tl.float32) * 0.015625
    else:
        magnitude = codes & ((1 << (BITS - 1)) - 1)
        field = (magnitude << (23 - MANTISSA)).to(tl.float32, bitcast=True)
        # 2**(126 + EMIN), as bits: 253 + EMIN is its exponent field.
        factor = tl.full([1], (253 + EMIN) << 23, tl.int32).to(tl.float32, bitcast=True)
        values = field * tl.reshape(factor, [1] * len(codes.shape))
        if MAX_CODE < (1 << (BITS - 1)) - 1:
            # Beyond the largest number: E4M3 has one NaN, E5M2 infinity and NaNs, as in IEEE 754.
            values = tl.where(magnitude > MAX_CODE, float("nan"), values)
            if (MAX_CODE & ((1 << MANTISSA) - 1)) == (1 << MANTISSA) - 1:
                values = tl.where(magnitude == MAX_CODE + 1, float("inf"), values)
        sign = (codes >> (BITS - 1)) << 31
        values = (values.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
    return values


@triton.jit
def scale_values(codes):
    """float32 values of int32 E8M0 codes: 2**(code - 127), NaN for 255; code 0 is a float32 subnormal."""
    bits = tl.where(codes == 0, 0x00400000, codes << 23)
    return tl.where(codes == 255, 0x7FC00000, bits).to(tl.float32, bitcast=True)


@triton.jit
def unpacked(pointers, row, k, ok, BITS: tl.constexpr):
    """int32 codes of positions ``k`` of packed rows whose first byte is at offset ``row``; 0 where not ``ok``.

    Two bytes may hold one 6-bit code: the second is read only where it is needed, which is never beyond the row.
    """
    if BITS == 8:
        codes = tl.load(pointers + row + k, mask=ok, other=0).to(tl.int32)
    elif BITS == 4:
        byte = tl.load(pointers + row + (k >> 1), mask=ok, other=0).to(tl.int32)
        codes = (byte >> ((k & 1) * 4)) & 0xF
    else:
        first = (k * 6) >> 3
        shift = (k * 6) & 7
        low = tl.load(pointers + row + first, mask=ok, other=0).to(tl.int32)
        high = tl.load(pointers + row + first + 1, mask=ok & (shift > 2), other=0).to(tl.int32)
        codes = ((low | (high << 8)) >> shift) & 0x3F
    return codes
