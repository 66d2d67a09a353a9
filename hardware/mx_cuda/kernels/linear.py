"""Products of packed weights with activations that were cast to elements and scales.

Elements are exact in bfloat16 whatever the scale, their products in float32; each block's sum is multiplied by both
scales afterwards, in two steps that neither overflow nor round where the result does not. So there is no scale, however
extreme, that needs another path.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .element import element_values, unpacked


@triton.jit
def _scaled(sums, weight_codes, activation_codes):
    """``sums * 2**(a - 127) * 2**(w - 127)`` of int32 E8M0 codes that broadcast; NaN where one is 255."""
    exponent = weight_codes + activation_codes - 254
    half = exponent >> 1
    first = tl.maximum((half + 127) << 23, 0x00400000).to(tl.float32, bitcast=True)
    second = tl.maximum((exponent - half + 127) << 23, 0x00400000).to(tl.float32, bitcast=True)
    broken = (weight_codes == 255) | (activation_codes == 255)
    return tl.where(broken, float("nan"), sums * first * second)


@triton.jit
def rows_kernel(
    elements, scales, a, a_scales, out, out_features, length, blocks, row_bytes, a_length, per_part,
    BITS: tl.constexpr, MANTISSA: tl.constexpr, EMIN: tl.constexpr, MAX_CODE: tl.constexpr, INTEGER: tl.constexpr,
    ROWS: tl.constexpr, N: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Few rows of activations: multiply and add, no matrix unit. Grid: (ceil(out / N), parts of the blocks).

    ``a``: bfloat16 elements (ROWS, a_length), ``a_scales`` (ROWS, blocks); ``out``: float32 (parts, ROWS, out).
    """
    n = tl.program_id(0) * N + tl.arange(0, N)
    inside = n < out_features
    row = n.to(tl.int64)
    start = tl.program_id(1) * per_part
    stop = tl.minimum(start + per_part, blocks)
    total = tl.zeros([ROWS, N], tl.float32)
    which = tl.arange(0, ROWS)
    for block in range(start, stop, BLOCKS):
        b = block + tl.arange(0, BLOCKS)
        k = block * 32 + tl.arange(0, BLOCKS * 32)
        codes = unpacked(
            elements, (row * row_bytes)[:, None], k[None, :], inside[:, None] & (k < length)[None, :], BITS
        )
        w = element_values(codes, BITS, MANTISSA, EMIN, MAX_CODE, INTEGER)
        here = b < stop
        w_scale = tl.load(
            scales + (row * blocks)[:, None] + b[None, :], mask=inside[:, None] & here[None, :], other=0
        ).to(tl.int32)
        for m in tl.static_range(ROWS):
            x = tl.load(a + m * a_length + k, mask=k < a_length, other=0.0).to(tl.float32)
            x_scale = tl.load(a_scales + m * blocks + b, mask=here, other=0).to(tl.int32)
            sums = tl.sum(tl.reshape(w * x[None, :], (N, BLOCKS, 32)), axis=2)
            sums = tl.where(here[None, :], _scaled(sums, w_scale, x_scale[None, :]), 0.0)
            total += tl.where((which == m)[:, None], tl.sum(sums, axis=1)[None, :], 0.0)
    at = (tl.program_id(1) * ROWS + which)[:, None].to(tl.int64) * out_features + n[None, :]
    tl.store(out + at, total, mask=inside[None, :])


@triton.jit
def tile_kernel(
    elements, scales, a, a_scales, out, rows, out_features, length, blocks, row_bytes, a_length, per_part,
    BITS: tl.constexpr, MANTISSA: tl.constexpr, EMIN: tl.constexpr, MAX_CODE: tl.constexpr, INTEGER: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Any number of rows, on the matrix unit, a block at a time. Grid: (ceil(out / N), parts, ceil(rows / M)).

    As ``rows_kernel``; ``out``: float32 (parts, rows, out_features). ``WIDE`` multiplies in float32, for Triton's
    interpreter: it multiplies the bit patterns of bfloat16.
    """
    n = tl.program_id(0) * N + tl.arange(0, N)
    m = tl.program_id(2) * M + tl.arange(0, M)
    inside, there = n < out_features, m < rows
    w_row, a_row = n.to(tl.int64), m.to(tl.int64)
    start = tl.program_id(1) * per_part
    total = tl.zeros([N, M], tl.float32)
    for block in range(start, tl.minimum(start + per_part, blocks)):
        k = block * 32 + tl.arange(0, 32)
        codes = unpacked(
            elements, (w_row * row_bytes)[:, None], k[None, :], inside[:, None] & (k < length)[None, :], BITS
        )
        w = element_values(codes, BITS, MANTISSA, EMIN, MAX_CODE, INTEGER).to(tl.bfloat16)
        # a is padded to whole blocks with zeros.
        x = tl.load(a + (a_row * a_length)[None, :] + k[:, None], mask=there[None, :], other=0.0)
        if WIDE:
            sums = tl.dot(w.to(tl.float32), x.to(tl.float32), input_precision="ieee")
        else:
            sums = tl.dot(w, x)
        w_scale = tl.load(scales + w_row * blocks + block, mask=inside, other=0).to(tl.int32)
        x_scale = tl.load(a_scales + a_row * blocks + block, mask=there, other=0).to(tl.int32)
        total += _scaled(sums, w_scale[:, None], x_scale[None, :])
    at = (tl.program_id(1) * rows + m).to(tl.int64)[None, :] * out_features + n[:, None]
    tl.store(out + at, total, mask=inside[:, None] & there[None, :])
