"""The RTL's command engine: what it answers to requests that are wrong, repeated, damaged or out of order."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from mx_fpga import layout, protocol
from mx_fpga.framing import MAX_CONTENT, encode_frame
from mx_fpga.protocol import Counters, Energy, EnergySource, LoadBegin, Message, Status
from mx_plugin.formats import quantize
from tests.fpga.raw_board import RawBoard, Refused

BEGIN = LoadBegin(
    handle=3, format=4, blocks=2, groups=1, element_base=64, element_bytes=512, scale_base=2, scale_bytes=32
)


def refusal(board: RawBoard, message: Message, payload: bytes = b"") -> tuple[Status, bytes]:
    with pytest.raises(Refused) as refused:
        board.ask(message, payload)
    return refused.value.status, refused.value.payload


def status(board: RawBoard, message: Message, payload: bytes = b"") -> Status:
    return refusal(board, message, payload)[0]


def begin(**changes: int) -> bytes:
    return LoadBegin(**{**BEGIN.__dict__, **changes}).encode()


def test_hello_says_what_was_built(board: RawBoard) -> None:
    hello = board.hello
    assert (hello.version, hello.lanes, hello.rows, hello.columns, hello.group) == (protocol.VERSION, 32, 2, 2, 8)
    assert (hello.element_bytes, hello.scale_bytes, hello.handles) == (1 << 20, 1 << 16, 16)
    assert hello.max_payload == protocol.MAX_PAYLOAD and hello.credits == 2 and hello.name == "simulated"
    assert len(hello.format_names) == 6 and hello.energy is EnergySource.NONE


@pytest.mark.parametrize("size", [0, 1, 5, 253, 254, 255, 508, 2039, 2040])
@pytest.mark.parametrize("fill", [b"\0", b"\x01", b"\xff", None])
def test_ping_returns_any_payload(board: RawBoard, size: int, fill: bytes | None) -> None:
    payload = os.urandom(size) if fill is None else fill * size
    assert board.ask(Message.PING, payload) == payload


@pytest.mark.parametrize(
    ("message", "length"),
    [(Message.LOAD_BEGIN, 24), (Message.LOAD_CHUNK, 8), (Message.LOAD_COMMIT, 1), (Message.FREE, 1),
     (Message.ACTIVATIONS, 12), (Message.RUN, 8)],
)  # fmt: skip
def test_short_arguments_are_refused(board: RawBoard, message: Message, length: int) -> None:
    assert status(board, message, bytes(length - 1)) is Status.BAD_LENGTH


def test_unknown_messages_are_refused(board: RawBoard) -> None:
    board.send(encode_frame(bytes([0x42, 0, 7, 0, 1, 2, 3])))
    frame = board.receive()
    assert (frame.message, frame.status, frame.sequence) == (0x42, Status.UNKNOWN_MESSAGE, 7)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"handle": 16}, Status.BAD_HANDLE),
        ({"format": 6}, Status.BAD_SHAPE),
        ({"blocks": 0}, Status.BAD_SHAPE),
        ({"blocks": 257}, Status.BAD_SHAPE),
        ({"groups": 0}, Status.BAD_SHAPE),
        ({"element_base": 32}, Status.OUT_OF_MEMORY),
        ({"element_bytes": 511}, Status.OUT_OF_MEMORY),
        ({"scale_base": 1}, Status.OUT_OF_MEMORY),
        ({"element_base": 1 << 20}, Status.OUT_OF_MEMORY),
        ({"element_base": (1 << 32) - 64}, Status.OUT_OF_MEMORY),
        ({"scale_base": (1 << 16) - 30}, Status.OUT_OF_MEMORY),
    ],
)
def test_weights_that_do_not_fit_are_refused(board: RawBoard, changes: dict[str, int], expected: Status) -> None:
    assert status(board, Message.LOAD_BEGIN, begin(**changes)) is expected


def test_the_last_byte_of_memory_may_be_used(board: RawBoard) -> None:
    board.ask(Message.LOAD_BEGIN, begin(element_base=(1 << 20) - 512, scale_base=(1 << 16) - 32))


def test_chunks_come_in_order_and_a_repeated_one_changes_nothing(board: RawBoard) -> None:
    def chunk(offset: int, size: int) -> bytes:
        return protocol.load_chunk(3, offset, bytes(size))

    assert status(board, Message.LOAD_CHUNK, chunk(0, 4)) is Status.NOT_LOADING
    board.ask(Message.LOAD_BEGIN, BEGIN.encode())
    assert refusal(board, Message.LOAD_CHUNK, chunk(100, 4)) == (Status.BAD_OFFSET, bytes(4))
    board.ask(Message.LOAD_CHUNK, chunk(0, 100))
    board.ask(Message.LOAD_CHUNK, chunk(0, 100))
    board.ask(Message.LOAD_CHUNK, chunk(40, 60))
    due = (100).to_bytes(4, "little")
    assert refusal(board, Message.LOAD_CHUNK, chunk(50, 60)) == (Status.BAD_OFFSET, due)
    assert status(board, Message.LOAD_CHUNK, chunk(100, 445)) is Status.BAD_LENGTH
    assert status(board, Message.LOAD_CHUNK, chunk((1 << 32) - 2, 4)) is Status.BAD_LENGTH
    assert status(board, Message.LOAD_CHUNK, protocol.load_chunk(4, 100, bytes(4))) is Status.NOT_LOADING
    assert refusal(board, Message.LOAD_COMMIT, b"\x03") == (Status.INCOMPLETE, due)
    board.ask(Message.LOAD_CHUNK, chunk(100, 444))
    assert status(board, Message.LOAD_COMMIT, b"\x04") is Status.NOT_LOADING
    board.ask(Message.LOAD_COMMIT, b"\x03")
    board.ask(Message.LOAD_COMMIT, b"\x03")
    assert status(board, Message.LOAD_COMMIT, b"\x10") is Status.BAD_HANDLE


def test_a_stream_may_be_cut_anywhere(board: RawBoard) -> None:
    """Chunks and parts of odd sizes: bytes are collected into words across them."""
    w, x = quantize(torch.randn(16, 64), "MXFP6"), quantize(torch.randn(2, 64), "MXFP6")
    whole = layout.weight_stream(w.elements.numpy(), w.scales.numpy(), "MXFP6", board.geometry)
    elements, scales = layout.weight_sizes(16, 2, "MXFP6", board.geometry)
    board.ask(Message.LOAD_BEGIN, LoadBegin(0, 2, 2, 1, 0, elements, 0, scales).encode())
    for at in range(0, len(whole), 13):
        board.ask(Message.LOAD_CHUNK, protocol.load_chunk(0, at, whole[at : at + 13]))
    board.ask(Message.LOAD_COMMIT, b"\0")
    parts = layout.activation_stream(x.elements.numpy(), x.scales.numpy(), "MXFP6")
    for at in range(0, len(parts), 7):
        board.ask(Message.ACTIVATIONS, protocol.activations(9, 2, 2, 2, at, parts[at : at + 7]))
    board.tag = 9
    cut = board.run(0, 16, 2)
    board.load(0, w.elements.numpy(), w.scales.numpy(), "MXFP6")
    board.give(x.elements.numpy(), x.scales.numpy(), "MXFP6")
    assert np.array_equal(cut, board.run(0, 16, 2))


def test_run_refuses_what_it_has_not(board: RawBoard) -> None:
    def run(handle: int = 0, tag: int = 5, first: int = 0, groups: int = 1) -> bytes:
        return protocol.run(handle, tag, first, groups)

    def part(offset: int, size: int, tag: int = 5, blocks: int = 2, tokens: int = 1, fmt: int = 0) -> bytes:
        return protocol.activations(tag, fmt, tokens, blocks, offset, bytes(size))

    assert status(board, Message.RUN, run()) is Status.BAD_HANDLE
    w = quantize(torch.randn(48, 64), "MXFP4")
    board.load(0, w.elements.numpy(), w.scales.numpy(), "MXFP4")
    assert status(board, Message.RUN, run()) is Status.NO_ACTIVATIONS
    for wrong in ({"tokens": 0}, {"tokens": 3}, {"blocks": 0}, {"blocks": 257}, {"fmt": 6}):
        assert status(board, Message.ACTIVATIONS, part(0, 4, **wrong)) is Status.BAD_SHAPE
    assert status(board, Message.ACTIVATIONS, part(8, 4)) is Status.NO_ACTIVATIONS
    board.ask(Message.ACTIVATIONS, part(0, 60))
    assert status(board, Message.ACTIVATIONS, part(60, 6, tag=6)) is Status.NO_ACTIVATIONS
    assert status(board, Message.ACTIVATIONS, part(60, 7)) is Status.BAD_LENGTH
    assert refusal(board, Message.ACTIVATIONS, part(64, 2)) == (Status.BAD_OFFSET, (60).to_bytes(4, "little"))
    assert refusal(board, Message.RUN, run()) == (Status.INCOMPLETE, (60).to_bytes(4, "little"))
    board.ask(Message.ACTIVATIONS, part(60, 6))
    board.ask(Message.ACTIVATIONS, part(60, 6))
    assert status(board, Message.RUN, run(tag=6)) is Status.NO_ACTIVATIONS
    assert status(board, Message.RUN, run(groups=0)) is Status.BAD_SHAPE
    assert status(board, Message.RUN, run(first=2, groups=2)) is Status.BAD_SHAPE
    assert status(board, Message.RUN, run(first=65535, groups=65535)) is Status.BAD_SHAPE
    assert len(board.ask(Message.RUN, run(first=1, groups=2))) == 2 * 16 * 4
    board.ask(Message.ACTIVATIONS, part(0, 99, tag=7, blocks=3))
    assert status(board, Message.RUN, run(tag=7)) is Status.BAD_SHAPE


def test_more_results_than_a_reply_holds_are_refused(board: RawBoard) -> None:
    w, x = quantize(torch.randn(16 * 40, 32), "MXFP4"), quantize(torch.randn(2, 32), "MXFP8")
    board.load(0, w.elements.numpy(), w.scales.numpy(), "MXFP4")
    board.give(x.elements.numpy(), x.scales.numpy(), "MXFP8")
    assert len(board.ask(Message.RUN, protocol.run(0, board.tag, 0, 15))) == 15 * 128
    assert status(board, Message.RUN, protocol.run(0, board.tag, 0, 16)) is Status.BAD_SHAPE


def test_reset_and_free_take_weights_away(board: RawBoard) -> None:
    w, x = quantize(torch.randn(16, 32), "MXFP4"), quantize(torch.randn(1, 32), "MXFP8")
    for handle in (1, 2):
        board.load(handle, w.elements.numpy(), w.scales.numpy(), "MXFP4")
    board.give(x.elements.numpy(), x.scales.numpy(), "MXFP8")
    board.ask(Message.FREE, b"\x01")
    board.ask(Message.FREE, b"\x01")
    assert status(board, Message.RUN, protocol.run(1, board.tag, 0, 1)) is Status.BAD_HANDLE
    board.run(2, 16, 1)
    assert status(board, Message.FREE, b"\x10") is Status.BAD_HANDLE
    board.ask(Message.LOAD_BEGIN, begin(handle=2))
    assert status(board, Message.RUN, protocol.run(2, board.tag, 0, 1)) is Status.BAD_HANDLE
    board.ask(Message.RESET)
    assert status(board, Message.LOAD_CHUNK, protocol.load_chunk(2, 0, b"")) is Status.NOT_LOADING
    assert status(board, Message.RUN, protocol.run(1, board.tag, 0, 1)) is Status.BAD_HANDLE


def noise() -> dict[str, bytes]:
    """Bytes between two delimiters that are no frame."""
    good = encode_frame(protocol.encode_request(Message.PING, 1, b"hello"))[:-1]
    flipped = bytearray(good)
    flipped[6] ^= 0x10
    return {
        "a flipped bit": bytes(flipped),
        "half a frame": good[: len(good) // 2],
        "a byte lost": good[:4] + good[5:],
        "a byte twice": good[:4] + good[3:],
        "two bytes swapped": good[:5] + good[6:7] + good[5:6] + good[7:],
        "a single byte": b"\x01",
        "no header": encode_frame(b"abc")[:-1],
        "too long": b"\x55" * 5000,
        "a run past the end": b"\xff" + good,
    }


@pytest.mark.parametrize("kind", noise())
def test_what_is_no_frame_is_reported_and_the_next_frame_is_understood(board: RawBoard, kind: str) -> None:
    before = Counters.decode(board.ask(Message.COUNTERS)).frames_bad
    board.send(noise()[kind] + b"\0")
    frame = board.receive()
    assert (frame.message, frame.status, frame.sequence) == (Message.BAD_FRAME, Status.BAD_FRAME, 0)
    assert board.ask(Message.PING, b"still there") == b"still there"
    assert Counters.decode(board.ask(Message.COUNTERS)).frames_bad == before + 1


def test_the_largest_frame_is_taken_and_a_larger_one_is_bad(board: RawBoard) -> None:
    import struct
    import zlib

    from mx_fpga.framing import cobs_encode

    content = bytes([Message.PING, 0, 1, 0]) + b"\x07" * (MAX_CONTENT - 4)
    board.send(encode_frame(content))
    assert board.receive().payload == content[4:]
    larger = content + b"\x07"
    board.send(cobs_encode(larger + struct.pack("<I", zlib.crc32(larger))) + b"\0")
    assert board.receive().message == Message.BAD_FRAME


def test_requests_sent_ahead_are_answered_in_order(board: RawBoard) -> None:
    frames = [encode_frame(protocol.encode_request(Message.PING, n, os.urandom(200))) for n in range(40)]
    board.send(b"".join(frames))
    assert [board.receive().sequence for _ in frames] == list(range(40))


def test_delimiters_alone_are_silence(board: RawBoard) -> None:
    board.send(b"\0" * 50)
    assert board.ask(Message.PING, b"x") == b"x"
    assert Counters.decode(board.ask(Message.COUNTERS)).frames_bad == 0


def test_a_board_without_a_meter_says_none(board: RawBoard) -> None:
    assert Energy.decode(board.ask(Message.READ_ENERGY)).source is EnergySource.NONE
