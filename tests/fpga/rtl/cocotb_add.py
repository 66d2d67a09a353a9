"""mx_add against numpy's float32."""

import os

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

LATENCY = 8


def operands(generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bit patterns: any, near in exponent, near in value, subnormal, special."""
    a = generator.integers(0, 1 << 32, count, dtype=np.uint32)
    b = generator.integers(0, 1 << 32, count, dtype=np.uint32)
    kind = generator.integers(0, 8, count)
    near = (a & 0x7F800000) + ((generator.integers(-26, 27, count) << 23).astype(np.int64) & 0xFFFFFFFF).astype(
        np.uint32
    )
    b = np.where(kind == 1, (near & 0x7F800000) | (b & 0x807FFFFF), b)
    b = np.where(kind == 2, a ^ np.uint32(0x80000000) ^ generator.integers(0, 16, count).astype(np.uint32), b)
    a = np.where(kind == 3, a & np.uint32(0x80FFFFFF), a)
    b = np.where(kind == 3, b & np.uint32(0x81FFFFFF), b)
    special = np.array(
        [0, 0x7F800000, 0xFF800000, 0x7FC00000, 1, 0x80000001, 0x7F7FFFFF, 0x00800000, 0x007FFFFF], np.uint32
    )
    a = np.where(kind == 4, generator.choice(special, count), a)
    b = np.where(kind == 4, generator.choice(special, count), b)
    b = np.where(kind == 5, (a & 0xFF800000) | (b & 0x007FFFFF), b)
    # Sparse mantissas, for ties.
    a = np.where(kind == 6, a & 0xFFC00001, a)
    b = np.where(kind == 6, ((near & 0x7F800000) | (b & 0x80400003)), b)
    return a.astype(np.uint32), b.astype(np.uint32)


def expected(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        total = a.view(np.float32) + b.view(np.float32)
    bits = total.view(np.uint32).copy()
    bits[np.isnan(total)] = 0x7FC00000
    bits[bits == 0x80000000] = 0  # only -0 + -0 is -0, which an accumulator that starts at +0 never meets
    return bits


@cocotb.test()
async def sums_equal_numpy(dut) -> None:
    cocotb.start_soon(Clock(dut.clk, 2, "step").start())
    count = int(os.environ.get("COUNT", "20000"))
    a, b = operands(np.random.default_rng(7), count)
    want = expected(a, b)
    for i in range(count + LATENCY):
        dut.a.value = int(a[i % count])
        dut.b.value = int(b[i % count])
        await RisingEdge(dut.clk)
        if i >= LATENCY:
            got = int(dut.sum.value)
            k = i - LATENCY
            assert got == want[k], f"{a[k]:08x} + {b[k]:08x} = {want[k]:08x}, not {got:08x}"
