"""The arithmetic of the cast on blocks in registers: float32 (lanes, 32), the operations of ``formats.arithmetic``.

Every operation is exact or rounded alone, so the bits are the reference's: divisions are multiplications by powers of
two, and a multiplication that the compiler fuses with an addition is exact.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def block_scales(v, OFFSET: tl.constexpr, DOUBLED: tl.constexpr):
    """int32 bits of each block's scale, (lanes, 1), and whether it holds a NaN or an infinity.

    The largest magnitude is found among bit patterns: NaNs are the largest of all, which a maximum of floats loses.
    """
    magnitude = v.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    amax = tl.max(magnitude, axis=1, keep_dims=True)
    broken = amax >= 0x7F800000
    if DOUBLED:
        twice = amax.to(tl.float32, bitcast=True) * 2.0
        amax = twice.to(tl.int32, bitcast=True)
    bits = (amax + OFFSET) & -0x800000
    bits = tl.minimum(tl.maximum(bits, 0x00400000), 0x7F000000)
    return bits, broken


@triton.jit
def in_quanta(v, bits, broken, LEAST_BITS: tl.constexpr, MANTISSA: tl.constexpr):
    """Magnitudes in quanta (float32), the bits of each binade, and sign bits (int32); broken blocks are zeros."""
    inverse = tl.maximum((0x7F400000 - bits) & 0x7F800000, 0x00400000).to(tl.float32, bitcast=True)
    y = tl.where(broken, 0.0, v * inverse).to(tl.int32, bitcast=True)
    binade = tl.maximum(y & 0x7F800000, LEAST_BITS)
    # 1 / quantum, by bits: the quantum is binade * 2**-MANTISSA, and far from both ends of float32.
    reciprocal = ((254 << 23) - (binade - (MANTISSA << 23))).to(tl.float32, bitcast=True)
    magnitude = (y & 0x7FFFFFFF).to(tl.float32, bitcast=True)
    return magnitude * reciprocal, binade, y & -0x80000000


@triton.jit
def to_even(quanta):
    """To the nearest whole number, ties to even: adding 2**23 leaves no room for a fraction."""
    return (quanta + 8388608.0) - 8388608.0


@triton.jit
def by_threshold(quanta, thresholds):
    """To the next whole number below, or above where the fraction reaches the threshold."""
    low = tl.floor(quanta)
    return tl.where(quanta - low >= thresholds, low + 1.0, low)


@triton.jit
def decoded(quanta, binade, sign, MANTISSA: tl.constexpr, MAX_BITS: tl.constexpr, INTEGER: tl.constexpr):
    """float32 elements, in units of the scale, of whole quanta."""
    quantum = (binade - (MANTISSA << 23)).to(tl.float32, bitcast=True)
    # Saturation among bit patterns: they order as the magnitudes do.
    magnitude = tl.minimum((quanta * quantum).to(tl.int32, bitcast=True), MAX_BITS)
    if INTEGER:  # two's complement has no negative zero
        sign = tl.where(magnitude == 0, 0, sign)
    return (magnitude | sign).to(tl.float32, bitcast=True)


@triton.jit
def encoded(
    quanta, binade, sign, BITS: tl.constexpr, MANTISSA: tl.constexpr, EMIN: tl.constexpr, MAX_CODE: tl.constexpr,
    INTEGER: tl.constexpr,
):  # fmt: skip
    """int32 codes of whole quanta; rounding up to the next binade carries into the exponent by itself."""
    exponent = (binade >> 23) - (127 + EMIN)
    codes = tl.minimum((exponent << MANTISSA) + quanta.to(tl.int32), MAX_CODE)
    if INTEGER:
        codes = tl.where(sign != 0, -codes, codes) & 0xFF
    else:
        codes = codes | tl.where(sign != 0, 1 << (BITS - 1), 0)
    return codes
