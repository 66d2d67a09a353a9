"""hardware/formal/framer.sv with real traffic: its assumptions can be kept to, and its assertions hold in long frames.

Verilator checks its assumptions and assertions in every cycle; that all frames arrive is checked here once more.
"""

import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from mx_fpga.framing import encode_frame

FOREIGN = bytes(range(1, 255))  # with its CRC beyond a full run
LENGTHS = (
    4,
    5,
    248,
    249,
    250,
    251,
    254,
    503,
    504,
    505,
    508,
    2044,
)  # with four bytes of CRC: runs around their 254 bytes


def content(draw: random.Random, length: int) -> bytes:
    """Without zeros, with some, or nothing else."""
    values = draw.choice((range(1, 256), range(256), range(2), range(1)))
    return bytes(draw.choice(values) for _ in range(length))


class Traffic:
    def __init__(self, dut, draw: random.Random, frames: list[bytes]) -> None:
        self.dut, self.draw, self.frames = dut, draw, frames
        self.read: list[bytes] = []
        self.foreign = 0

    async def until(self, signal) -> None:
        """An edge before which ``signal`` was high."""
        await RisingEdge(self.dut.clk)
        while not int(signal.value):
            await RisingEdge(self.dut.clk)

    async def rest(self, chance: float) -> None:
        while self.draw.random() < chance:
            await RisingEdge(self.dut.clk)

    async def send(self) -> None:
        dut = self.dut
        for frame in self.frames:
            await self.until(dut.idle)
            dut.start.value = 1
            await RisingEdge(dut.clk)
            dut.start.value = 0
            for byte in frame:
                await self.rest(0.1)
                dut.in_valid.value, dut.in_data.value = 1, byte
                await self.until(dut.in_ready)
                dut.in_valid.value = 0
            dut.finish.value = 1
            await RisingEdge(dut.clk)
            dut.finish.value = 0

    async def make_noise(self) -> None:
        """Bytes that are no frame, ended by a zero, and the host's frames."""
        dut, draw = self.dut, self.draw
        while True:
            await self.rest(0.99)
            noise = content(draw, draw.choice((0, 3, 5, 300, 2100))) + b"\0"
            for byte in encode_frame(FOREIGN) if draw.random() < 0.4 else noise:
                dut.noise_valid.value, dut.noise.value = 1, byte
                await self.until(dut.noise_ready)
                dut.noise_valid.value = 0

    async def stall(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            self.dut.pause.value = int(self.draw.random() < 0.2)

    async def take(self) -> None:
        dut = self.dut
        while len(self.read) < len(self.frames):
            found, length = bytearray(), 1
            while len(found) < length:
                await self.rest(0.1)
                dut.advance.value = 1
                await self.until(dut.frame_valid)
                dut.advance.value = 0
                length = int(dut.frame_length.value)
                found.append(int(dut.data.value))
            dut.release_.value = 1
            await RisingEdge(dut.clk)
            dut.release_.value = 0
            await RisingEdge(dut.clk)
            if found == FOREIGN:
                self.foreign += 1
            else:
                self.read.append(bytes(found))


@cocotb.test()
async def frames_pass_and_the_claims_hold(dut) -> None:
    cocotb.start_soon(Clock(dut.clk, 2, "step").start())
    draw = random.Random(5)
    for name in ("start", "in_valid", "finish", "pause", "noise_valid", "advance", "release_"):
        getattr(dut, name).value = 0
    foreign = 0
    for _ in range(12):
        frames = [content(draw, length) for length in draw.sample(LENGTHS, 4)]
        dut.any_place.value, dut.any_index.value = draw.randrange(2060), draw.choice((0, 3, 247, draw.randrange(2044)))
        dut.reset.value = 1
        await RisingEdge(dut.clk)
        dut.reset.value = 0
        traffic = Traffic(dut, draw, frames)
        others = [cocotb.start_soon(work) for work in (traffic.send(), traffic.make_noise(), traffic.stall())]
        await traffic.take()
        assert traffic.read == frames
        foreign += traffic.foreign
        for other in others:
            other.cancel()
        dut.noise_valid.value = 0
    assert foreign > 0
