"""The board's arithmetic once more, slowly, in exact fractions and with another library's tables of values.

Independent of ``mx_fpga.arithmetic``: element values come from ``ml_dtypes``, rounding is done on fractions.
"""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

_DTYPES = {
    "MXFP8": ml_dtypes.float8_e4m3fn,
    "MXFP8_E5M2": ml_dtypes.float8_e5m2,
    "MXFP6": ml_dtypes.float6_e2m3fn,
    "MXFP6_E3M2": ml_dtypes.float6_e3m2fn,
    "MXFP4": ml_dtypes.float4_e2m1fn,
}


def element_values(fmt: str) -> list[float]:
    """Values of all codes, in units of the scale."""
    if fmt == "MXINT8":
        return [code / 64 for code in np.arange(256, dtype=np.uint8).view(np.int8).tolist()]
    codes = {"MXFP4": 16, "MXFP6": 64, "MXFP6_E3M2": 64}.get(fmt, 256)
    return [float(v) for v in np.arange(codes, dtype=np.uint8).view(_DTYPES[fmt]).astype(np.float64)]


def round_to_float32(value: Fraction) -> float:
    """To nearest, ties to even, with gradual underflow and overflow to infinity; a zero sum is +0."""
    if value == 0:
        return 0.0
    magnitude = abs(value)
    exponent = math.floor(math.log2(magnitude.numerator) - math.log2(magnitude.denominator))
    while magnitude >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while magnitude < Fraction(2) ** exponent:
        exponent -= 1
    quantum = Fraction(2) ** max(exponent - 23, -149)
    quanta = round(magnitude / quantum)  # Python rounds ties to even
    rounded = quanta * quantum
    if rounded >= Fraction(2) ** 128:
        return math.copysign(math.inf, value)
    return math.copysign(float(rounded), value)


def block_sum(x: list[float], w: list[float], x_scale: int, w_scale: int) -> float:
    """One block's sum rounded to float32; special values by IEEE 754, product by product."""
    products = [a * b for a, b in zip(x, w, strict=True)]
    if x_scale == 255 or w_scale == 255 or any(math.isnan(p) for p in products):
        return math.nan
    infinities = {p for p in products if math.isinf(p)}
    if infinities:
        return infinities.pop() if len(infinities) == 1 else math.nan
    exact = sum((Fraction(a) * Fraction(b) for a, b in zip(x, w, strict=True)), Fraction(0))
    return round_to_float32(exact * Fraction(2) ** (x_scale + w_scale - 254))


def add_float32(a: float, b: float) -> float:
    """One addition of float32 values in float32."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a + b
    return round_to_float32(Fraction(a) + Fraction(b))


def dot(x: list[float], w: list[float], x_scales: list[int], w_scales: list[int]) -> float:
    """A whole row against a whole row."""
    total = 0.0
    for block, (xs, ws) in enumerate(zip(x_scales, w_scales, strict=True)):
        part = slice(32 * block, 32 * block + 32)
        total = add_float32(total, block_sum(x[part], w[part], xs, ws))
    return total


def bits(values: NDArray[np.float32] | list[float]) -> NDArray[np.uint32]:
    """Float32 bit patterns, every NaN as the one that boards answer."""
    with np.errstate(over="ignore"):
        array = np.array(values, np.float32)
    patterns = array.view(np.uint32).copy()
    patterns[np.isnan(array)] = 0x7FC00000
    return patterns
