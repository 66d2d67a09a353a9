"""Random words of a StochasticKey: the bits that ``mx_plugin.formats.philox`` defines.

Keys come as signed 32-bit integers with the bits of the unsigned ones, so that a kernel is compiled once for all.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.random import philox_impl


@triton.jit
def philox_words(group, seed, step, stream, last):
    """The four words of counter ``group`` (int64, any shape): uint32 each. ``last``: ``call | domain << 31``."""
    low = (group & 0xFFFFFFFF).to(tl.uint32)
    high = (group >> 32).to(tl.uint32)
    zero = low * 0
    k0 = zero + seed.to(tl.uint32, bitcast=True)
    k1 = zero + stream.to(tl.uint32, bitcast=True)
    c2 = zero + step.to(tl.uint32, bitcast=True)
    c3 = zero + last.to(tl.uint32, bitcast=True)
    return philox_impl(low, high, c2, c3, k0, k1)


@triton.jit
def word(index, seed, step, stream, last):
    """Word ``index`` (int64, any shape), by itself: uint32."""
    w0, w1, w2, w3 = philox_words(index >> 2, seed, step, stream, last)
    which = index & 3
    return tl.where(which < 2, tl.where(which == 0, w0, w1), tl.where(which == 2, w2, w3))


@triton.jit
def threshold(words):
    """``((word >> 8) + 1) * 2**-24``: float32 in (0, 1]."""
    return ((words >> 8).to(tl.int32) + 1).to(tl.float32) * 5.9604644775390625e-08
