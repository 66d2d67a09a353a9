"""Conversions between float32 and what memory holds, by bits where the dtype is bfloat16.

So they round to nearest, ties to even, and keep subnormals wherever they run: Triton's interpreter (3.9) does neither
for bfloat16.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def widened(values):
    """float32 of float32, bfloat16 or float16; exact."""
    if values.dtype == tl.bfloat16:
        wide = (values.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = values.to(tl.float32)
    return wide


@triton.jit
def narrowed(values, dtype: tl.constexpr):
    """float32 rounded to ``dtype``: to nearest, ties to even; every NaN is the positive quiet one in bfloat16."""
    if dtype == tl.bfloat16:
        bits = values.to(tl.int32, bitcast=True)
        rounded = (bits >> 16) + ((bits & 0xFFFF) + ((bits >> 16) & 1) > 0x8000).to(tl.int32)
        rounded = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC0, rounded)
        narrow = rounded.to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        narrow = values.to(dtype)
    return narrow
