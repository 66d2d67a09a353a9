"""mx_core's byte streams: frames survive a link and a reader that stall at any byte, and damage in between."""

import random

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from mx_fpga import layout, protocol
from mx_fpga.arithmetic import matmul_codes
from mx_fpga.elements import format_number
from mx_fpga.framing import Deframer, encode_frame
from mx_fpga.layout import Geometry
from mx_fpga.protocol import LoadBegin, Message, Status

GEOMETRY = Geometry(rows=1, columns=1, group=8)


class Streams:
    """Both streams of the core, each with a chance to stall in every cycle."""

    def __init__(self, dut, seed: int) -> None:
        self.dut, self.draw = dut, random.Random(seed)
        self.stall_in = self.stall_out = 0.0
        self.incoming, self.deframer, self.frames = bytearray(), Deframer(), []

    async def reset(self) -> None:
        cocotb.start_soon(Clock(self.dut.clk, 2, "step").start())
        self.dut.energy_source.value = 0
        self.dut.in_valid.value, self.dut.out_ready.value, self.dut.reset.value = 0, 0, 1
        for _ in range(5):
            await RisingEdge(self.dut.clk)
        self.dut.reset.value = 0
        cocotb.start_soon(self.feed())
        cocotb.start_soon(self.drain())

    async def feed(self) -> None:
        """A byte that was offered stays until it is taken."""
        dut = self.dut
        while True:
            if self.incoming and self.draw.random() >= self.stall_in:
                dut.in_valid.value, dut.in_data.value = 1, self.incoming.pop(0)
                await RisingEdge(dut.clk)
                while not int(dut.in_ready.value):
                    await RisingEdge(dut.clk)
                dut.in_valid.value = 0
            else:
                await RisingEdge(dut.clk)

    async def drain(self) -> None:
        dut, ready = self.dut, 0
        while True:
            await RisingEdge(dut.clk)
            if ready and int(dut.out_valid.value):
                self.frames += map(protocol.decode, self.deframer.feed(bytes([int(dut.out_data.value)])))
            ready = int(self.draw.random() >= self.stall_out)
            dut.out_ready.value = ready

    async def answer(self) -> protocol.Frame:
        for _ in range(60000):
            if self.frames:
                return self.frames.pop(0)
            await RisingEdge(self.dut.clk)
        raise AssertionError("no answer")

    async def ask(self, message: Message, payload: bytes = b"", sequence: int = 1) -> protocol.Frame:
        self.incoming += encode_frame(protocol.encode_request(message, sequence, payload))
        frame = await self.answer()
        assert frame.is_reply and (frame.message, frame.sequence) == (message, sequence), frame
        return frame


@cocotb.test()
async def frames_survive_stalls(dut) -> None:
    streams = Streams(dut, 1)
    await streams.reset()
    for number, (stall_in, stall_out) in enumerate(((0, 0), (0.6, 0), (0, 0.6), (0.4, 0.4))):
        streams.stall_in, streams.stall_out = stall_in, stall_out
        for size in (0, 1, 253, 254, 255, 700):
            payload = bytes(streams.draw.choice((0, 0, 1, 255)) for _ in range(size))
            frame = await streams.ask(Message.PING, payload, number + 10)
            assert frame.payload == payload and not frame.status
    assert streams.deframer.bad == 0


@cocotb.test()
async def frames_sent_ahead_wait_in_line(dut) -> None:
    streams = Streams(dut, 2)
    await streams.reset()
    streams.stall_out = 0.5
    payloads = [streams.draw.randbytes(120) for _ in range(6)]
    for number, payload in enumerate(payloads):
        streams.incoming += encode_frame(protocol.encode_request(Message.PING, number, payload))
    for number, payload in enumerate(payloads):
        frame = await streams.answer()
        assert (frame.sequence, frame.payload) == (number, payload)


@cocotb.test()
async def damaged_frames_are_reported_and_nothing_is_lost_behind_them(dut) -> None:
    streams = Streams(dut, 3)
    await streams.reset()
    for number in range(25):
        frame = bytearray(encode_frame(protocol.encode_request(Message.PING, 99, streams.draw.randbytes(30)))[:-1])
        kind, at = streams.draw.randrange(3), streams.draw.randrange(1, len(frame) - 1)
        if kind == 0:
            frame[at] ^= 1 << streams.draw.randrange(8)
            frame[at] = frame[at] or 1
        elif kind == 1:
            del frame[at]
        else:
            frame.insert(at, streams.draw.randrange(1, 256))
        streams.incoming += frame + b"\0"
        assert (await streams.answer()).message == Message.BAD_FRAME
        assert (await streams.ask(Message.PING, b"next", number)).payload == b"next"


@cocotb.test()
async def a_request_under_the_name_of_bad_frame_is_refused_once(dut) -> None:
    streams = Streams(dut, 5)
    await streams.reset()
    streams.incoming += encode_frame(bytes([0x7F, 0, 7, 0]) + b"payload")
    frame = await streams.answer()
    assert (frame.status, frame.sequence) == (Status.UNKNOWN_MESSAGE, 7)
    assert (await streams.ask(Message.PING, b"next", 8)).payload == b"next"


@cocotb.test()
async def a_product_through_stalling_streams_is_exact(dut) -> None:
    streams = Streams(dut, 4)
    await streams.reset()
    generator = np.random.default_rng(4)
    for w_fmt, x_fmt in (("MXFP6", "MXFP8"), ("MXFP8_E5M2", "MXFP4")):
        streams.stall_in, streams.stall_out = 0.2, 0.3
        w, x = generator.integers(0, 64, (24, 64), np.uint8), generator.integers(0, 16, (1, 64), np.uint8)
        ws, xs = generator.integers(110, 140, (24, 2), np.uint8), generator.integers(110, 140, (1, 2), np.uint8)

        def packed(codes: np.ndarray, fmt: str) -> np.ndarray:
            import torch

            from mx_plugin.formats import get_format
            from mx_plugin.formats.packing import pack

            return pack(torch.from_numpy(codes), get_format(fmt).element.bits).numpy()

        stream = layout.weight_stream(packed(w, w_fmt), ws, w_fmt, GEOMETRY)
        elements, scales = layout.weight_sizes(24, 2, w_fmt, GEOMETRY)
        begin = LoadBegin(2, format_number(w_fmt), 2, 3, 32, elements, 5, scales)
        assert not (await streams.ask(Message.LOAD_BEGIN, begin.encode())).status
        for at in range(0, len(stream), 500):
            chunk = protocol.load_chunk(2, at, stream[at : at + 500])
            assert not (await streams.ask(Message.LOAD_CHUNK, chunk)).status
        assert not (await streams.ask(Message.LOAD_COMMIT, protocol.handle_only(2))).status
        given = layout.activation_stream(packed(x, x_fmt), xs, x_fmt)
        message = protocol.activations(1, format_number(x_fmt), 1, 2, 0, given)
        assert not (await streams.ask(Message.ACTIVATIONS, message)).status
        reply = await streams.ask(Message.RUN, protocol.run(2, 1, 0, 3))
        assert not reply.status
        got = layout.results(reply.payload, 1, GEOMETRY)
        want = matmul_codes(x, xs, x_fmt, w, ws, w_fmt)
        assert np.array_equal(got.view(np.uint32), want.view(np.uint32))
