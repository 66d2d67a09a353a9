"""mx_round against fractions."""

import os
import random
from fractions import Fraction

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from tests.fpga.fractions_model import round_to_float32

LATENCY = 7


def case(draw: random.Random) -> tuple[int, bool, int]:
    """Magnitude, sign and exponent; often near a tie, near the ends of the range."""
    bits = draw.randrange(0, 71)
    magnitude = draw.getrandbits(bits) if bits else 0
    if bits > 30 and draw.random() < 0.5:  # a tie, or one unit beside it
        low = bits - 25
        magnitude = ((magnitude >> low) << low) | (1 << (low - 1) if draw.random() < 0.9 else 0)
        magnitude = max(magnitude + draw.choice((-1, 0, 0, 1)), 0)
    if draw.random() < 0.1:
        magnitude = (1 << bits) - 1
    base = draw.choice((draw.randrange(-290, 260), draw.randrange(-150, -115) - bits, draw.randrange(120, 135) - bits))
    return magnitude & ((1 << 70) - 1), draw.random() < 0.5, base


@cocotb.test()
async def rounding_equals_fractions(dut) -> None:
    cocotb.start_soon(Clock(dut.clk, 2, "step").start())
    draw = random.Random(3)
    count = int(os.environ.get("COUNT", "15000"))
    cases = [case(draw) for _ in range(count)]
    dut.is_nan.value = 0
    dut.is_infinite.value = 0
    for i in range(count + LATENCY):
        magnitude, negative, base = cases[i % count]
        dut.magnitude.value = magnitude
        dut.negative.value = int(negative and magnitude != 0)
        dut.exponent.value = (base + 196) & 0x7FF
        await RisingEdge(dut.clk)
        if i >= LATENCY:
            magnitude, negative, base = cases[i - LATENCY]
            exact = Fraction(magnitude) * Fraction(2) ** base * (-1 if negative else 1)
            want = int(np.float32(round_to_float32(exact)).view(np.uint32))
            got = int(dut.value.value)
            assert got == want, f"{magnitude:x} * 2**{base} ({negative}) = {want:08x}, not {got:08x}"


@cocotb.test()
async def flags_win(dut) -> None:
    cocotb.start_soon(Clock(dut.clk, 2, "step").start())
    for nan, infinite, negative, want in ((1, 0, 0, 0x7FC00000), (1, 1, 1, 0x7FC00000), (0, 1, 1, 0xFF800000)):
        dut.magnitude.value, dut.exponent.value, dut.negative.value = 12345, 100, negative
        dut.is_nan.value, dut.is_infinite.value = nan, infinite
        for _ in range(LATENCY + 2):
            await RisingEdge(dut.clk)
        assert int(dut.value.value) == want
