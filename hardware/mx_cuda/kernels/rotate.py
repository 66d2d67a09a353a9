"""The random Hadamard transform of size 32, in registers: the operations of ``mx_plugin.formats.hadamard``."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _butterfly(v, LANES: tl.constexpr, DISTANCE: tl.constexpr):
    pairs = tl.reshape(v, (LANES, 16 // DISTANCE, 2, DISTANCE))
    a, b = tl.split(tl.permute(pairs, (0, 1, 3, 2)))
    return tl.reshape(tl.permute(tl.join(a + b, a - b), (0, 1, 3, 2)), (LANES, 32))


@triton.jit
def hadamard(v, LANES: tl.constexpr):
    """H32 / sqrt(32) of every row of ``v``: float32 (LANES, 32)."""
    v = _butterfly(v, LANES, 1)
    v = _butterfly(v, LANES, 2)
    v = _butterfly(v, LANES, 4)
    v = _butterfly(v, LANES, 8)
    v = _butterfly(v, LANES, 16)
    return v * 0.17677669529663687
