"""Packed rows to values."""

from __future__ import annotations

import triton
import triton.language as tl

from .dtype import narrowed
from .element import element_values, scale_values, unpacked


@triton.jit
def decode_kernel(
    elements, scales, out, count, length, blocks, row_bytes,
    BITS: tl.constexpr, MANTISSA: tl.constexpr, EMIN: tl.constexpr, MAX_CODE: tl.constexpr, INTEGER: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """``out``: ``count`` values in rows of ``length``, contiguous, of any floating dtype; grid: ceil(count / WIDTH)."""
    at = tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
    ok = at < count
    row = at // length
    k = (at - row * length).to(tl.int32)
    codes = unpacked(elements, row * row_bytes, k, ok, BITS)
    scale = scale_values(tl.load(scales + row * blocks + k // 32, mask=ok, other=0).to(tl.int32))
    values = element_values(codes, BITS, MANTISSA, EMIN, MAX_CODE, INTEGER) * scale
    tl.store(out + at, narrowed(values, out.dtype.element_ty), mask=ok)
