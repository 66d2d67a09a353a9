"""The cast: one kernel reads x once and writes values, or packed elements and scales.

A tensor is seen as (before, length, after) with strides of its own; a program takes ``LANES`` blocks of 32. Without
COLUMNS neighbouring lanes are neighbouring blocks of a row; with it they are neighbours along ``after``, so that
memory is read in runs whichever dimension is blocked.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .draw import philox_words, threshold, word
from .dtype import narrowed, widened
from .rotate import hadamard
from .rounding import block_scales, by_threshold, decoded, encoded, in_quanta, to_even

VALUES: tl.constexpr = tl.constexpr(0)
PACKED: tl.constexpr = tl.constexpr(1)
ELEMENTS: tl.constexpr = tl.constexpr(2)
"""What is written: values in the result's dtype; packed codes and scales; elements without their scale, and scales."""

SINGLY: tl.constexpr = tl.constexpr(0)
ALONG: tl.constexpr = tl.constexpr(1)
ACROSS: tl.constexpr = tl.constexpr(2)
"""How random words are drawn: each by itself, or four at once along a block or across lanes."""


@triton.jit
def _four_along(index, seed, step, stream, call, LANES: tl.constexpr):
    """Words (LANES, 32) of blocks whose elements are counted one by one; ``index``: (LANES, 8), of every fourth."""
    w0, w1, w2, w3 = philox_words(index >> 2, seed, step, stream, call)
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (LANES, 32))


@triton.jit
def _four_across(index, seed, step, stream, call, LANES: tl.constexpr):
    """Words (LANES, 32) where neighbouring lanes are counted one by one; ``index``: (LANES / 4, 32)."""
    w0, w1, w2, w3 = philox_words(index >> 2, seed, step, stream, call)
    quads = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    return tl.reshape(tl.permute(quads, (0, 2, 3, 1)), (LANES, 32))


@triton.jit
def _signs(block, seed, step, stream, call):
    """Signs of the 32 positions of each lane's block: float32 (lanes, 32)."""
    words = word(block.to(tl.int64), seed, step, stream, call | -0x80000000)
    bit = (words[:, None] >> tl.arange(0, 32)[None, :].to(tl.uint32)) & 1
    return 1.0 - 2.0 * bit.to(tl.float32)


@triton.jit
def _store_packed(pointer, row, block, codes, ok, row_bytes, LANES: tl.constexpr, BITS: tl.constexpr):
    """Write int32 codes (LANES, 32) at byte ``block * 4 * BITS`` of each row; bytes beyond the row are not written."""
    start = (row + block * (4 * BITS))[:, None]
    room = (row_bytes - block * (4 * BITS))[:, None]
    if BITS == 8:
        at = tl.arange(0, 32)[None, :]
        tl.store(pointer + start + at, codes.to(tl.uint8), mask=ok[:, None] & (at < room))
    elif BITS == 4:
        low, high = tl.split(tl.reshape(codes, (LANES, 16, 2)))
        at = tl.arange(0, 16)[None, :]
        tl.store(pointer + start + at, (low | (high << 4)).to(tl.uint8), mask=ok[:, None] & (at < room))
    else:
        even, odd = tl.split(tl.reshape(codes, (LANES, 8, 2, 2)))
        a, c = tl.split(even)
        b, d = tl.split(odd)
        triple = a | (b << 6) | (c << 12) | (d << 18)
        at = tl.arange(0, 8)[None, :] * 3
        for byte in tl.static_range(3):
            value = ((triple >> (8 * byte)) & 0xFF).to(tl.uint8)
            tl.store(pointer + start + at + byte, value, mask=ok[:, None] & (at + byte < room))


@triton.jit(do_not_specialize=["seed", "step", "stream", "call", "h_seed", "h_step", "h_stream", "h_call"])
def cast_kernel(
    x, out, scales,
    length, after, blocks, lanes, chunks, out_length, row_bytes,
    x_before, x_length, x_after,
    out_before, out_stride, out_after,
    i_before, i_length, i_after,
    seed, step, stream, call, h_seed, h_step, h_stream, h_call,
    OFFSET: tl.constexpr, DOUBLED: tl.constexpr, LEAST_BITS: tl.constexpr, MAX_BITS: tl.constexpr,
    BITS: tl.constexpr, MANTISSA: tl.constexpr, EMIN: tl.constexpr, MAX_CODE: tl.constexpr, INTEGER: tl.constexpr,
    WRITE: tl.constexpr, STOCHASTIC: tl.constexpr, DRAW: tl.constexpr, ROTATED: tl.constexpr,
    COLUMNS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Cast blocks ``LANES`` at a time; grid: ceil(lanes / LANES), or with COLUMNS before * blocks * ``chunks``.

    ``out`` holds values by its three strides, or packed rows of ``row_bytes``; ``scales`` (rows, blocks), a row for
    each (before, after). ``i_``: strides by which the elements of the tensor that is cast are counted for random words.
    """
    program = tl.program_id(0)
    first = (program % chunks if COLUMNS else program) * LANES
    lane = first + tl.arange(0, LANES)
    if COLUMNS:
        ok = lane < after
        group = program // chunks
        block = tl.zeros([LANES], tl.int32) + group % blocks
        before = tl.zeros([LANES], tl.int64) + group // blocks
        beside = lane.to(tl.int64)
    else:
        ok = lane < lanes
        block = lane % blocks
        before = (lane // blocks).to(tl.int64)
        beside = tl.zeros([LANES], tl.int64)
    k = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    source = (before * x_before + beside * x_after)[:, None] + k.to(tl.int64) * x_length
    v = widened(tl.load(x + source, mask=ok[:, None] & (k < length), other=0.0))
    if ROTATED:
        v = hadamard(v * _signs(block, h_seed, h_step, h_stream, h_call), LANES)

    bits, broken = block_scales(v, OFFSET, DOUBLED)
    quanta, binade, sign = in_quanta(v, bits, broken, LEAST_BITS, MANTISSA)
    if STOCHASTIC:
        lanes_at = before * i_before + beside * i_after
        if DRAW == ALONG:
            fourth = block[:, None] * 32 + tl.arange(0, 8)[None, :] * 4
            words = _four_along(lanes_at[:, None] + fourth * i_length, seed, step, stream, call, LANES)
        elif DRAW == ACROSS:
            fourth = (first + tl.arange(0, LANES // 4) * 4).to(tl.int64) * i_after + group // blocks * i_before
            position = (group % blocks * 32 + tl.arange(0, 32)).to(tl.int64) * i_length
            words = _four_across(fourth[:, None] + position[None, :], seed, step, stream, call, LANES)
        else:
            words = word(lanes_at[:, None] + k.to(tl.int64) * i_length, seed, step, stream, call)
        quanta = by_threshold(quanta, threshold(words))
    else:
        quanta = to_even(quanta)

    if WRITE == PACKED:
        codes = encoded(quanta, binade, sign, BITS, MANTISSA, EMIN, MAX_CODE, INTEGER)
        row = before * after + beside
        _store_packed(out, row * row_bytes, block, codes, ok, row_bytes, LANES, BITS)
    else:
        values = decoded(quanta, binade, sign, MANTISSA, MAX_BITS, INTEGER)
        if WRITE == VALUES:
            values = tl.where(broken, float("nan"), values * bits.to(tl.float32, bitcast=True))
        target = (before * out_before + beside * out_after)[:, None] + k.to(tl.int64) * out_stride
        tl.store(out + target, narrowed(values, out.dtype.element_ty), mask=ok[:, None] & (k < out_length))
    if WRITE != VALUES:
        code = tl.where(broken, 255, bits >> 23)
        at = ((before * after + beside) * blocks + block)[:, None]
        tl.store(scales + at, code.to(tl.uint8), mask=ok[:, None])
