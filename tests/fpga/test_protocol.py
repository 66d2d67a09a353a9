"""Frames and messages: what is encoded decodes to the same, and what is damaged is refused."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mx_fpga import protocol
from mx_fpga.framing import (
    MAX_CONTENT,
    Deframer,
    FrameError,
    cobs_decode,
    cobs_encode,
    decode_frame,
    encode_frame,
)
from mx_fpga.protocol import Counters, Energy, EnergyScope, EnergySource, Hello, Message, ProtocolError, Status

HELLO = Hello(
    version=(1, 0), formats=0b111111, lanes=32, rows=2, columns=2, group=8, handles=16, max_blocks=256,
    max_payload=2040, credits=2, energy=EnergySource.NONE,
    element_bytes=8 << 20, scale_bytes=512 << 10, clock_hz=100_000_000, name="sim",
)  # fmt: skip

contents = st.one_of(
    st.binary(min_size=1, max_size=600),
    st.lists(st.sampled_from([0, 1, 255]), min_size=1, max_size=600).map(bytes),
    st.integers(250, 520).map(lambda n: b"\x01" * n),
)


@pytest.mark.parametrize(
    ("plain", "stuffed"),
    [
        # The examples of Cheshire and Baker's scheme as commonly tabulated.
        (b"", b"\x01"),
        (b"\x00", b"\x01\x01"),
        (b"\x00\x00", b"\x01\x01\x01"),
        (b"\x11\x22\x00\x33", b"\x03\x11\x22\x02\x33"),
        (b"\x11\x00\x00\x00", b"\x02\x11\x01\x01\x01"),
        (bytes(range(1, 255)), b"\xff" + bytes(range(1, 255))),
        (bytes(range(0, 255)), b"\x01\xff" + bytes(range(1, 255))),
        (bytes(range(1, 256)), b"\xff" + bytes(range(1, 255)) + b"\x02\xff"),
        (bytes(range(2, 256)) + b"\x00", b"\xff" + bytes(range(2, 256)) + b"\x01\x01"),
    ],
)
def test_cobs_stuffs_as_tabulated(plain: bytes, stuffed: bytes) -> None:
    assert cobs_encode(plain) == stuffed
    assert cobs_decode(stuffed) == plain


@given(contents)
def test_frames_survive_the_round_trip_without_a_zero_inside(content: bytes) -> None:
    frame = encode_frame(content)
    assert frame[-1] == 0 and 0 not in frame[:-1]
    assert len(frame) <= len(content) + 4 + (len(content) + 4) // 254 + 2
    assert decode_frame(frame[:-1]) == content


@given(st.binary(max_size=1200))
def test_cobs_agrees_with_another_implementation(data: bytes) -> None:
    cobs = pytest.importorskip("cobs.cobs", reason="pip install cobs: another implementation to compare with")
    assert cobs.encode(data) == cobs_encode(data)


@given(contents, st.data())
def test_any_one_flipped_bit_is_noticed(content: bytes, data: st.DataObject) -> None:
    frame = bytearray(encode_frame(content)[:-1])
    at = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[at // 8] ^= 1 << at % 8
    with pytest.raises(FrameError):
        decode_frame(bytes(frame))


def test_content_that_no_board_could_buffer_is_refused() -> None:
    assert decode_frame(encode_frame(b"\x07" * MAX_CONTENT)[:-1]) == b"\x07" * MAX_CONTENT
    with pytest.raises(FrameError, match="send it in parts"):
        encode_frame(b"\x07" * (MAX_CONTENT + 1))
    with pytest.raises(ProtocolError, match="2041"):
        protocol.encode_request(Message.PING, 0, bytes(2041))


@given(st.lists(contents, max_size=6), st.data())
def test_a_deframer_cuts_the_stream_wherever_it_is_torn(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(b"\0" * data.draw(st.integers(0, 2)) + encode_frame(content) for content in frames)
    deframer, found = Deframer(), []
    while stream:
        size = data.draw(st.integers(1, 300))
        found += deframer.feed(stream[:size])
        stream = stream[size:]
    assert found == frames and deframer.bad == 0


def test_a_deframer_finds_its_place_after_noise() -> None:
    deframer = Deframer()
    good = encode_frame(b"good")
    assert deframer.feed(good[3:] + good) == [b"good"]
    assert deframer.bad == 1
    assert deframer.feed(b"\x55" * 5000) == [] and deframer.feed(b"\0" + good) == [b"good"]
    assert deframer.bad == 2
    assert deframer.feed(b"\x03\x01") == []
    deframer.reset()
    assert deframer.feed(good) == [b"good"] and deframer.bad == 2


def test_the_crc_is_that_of_zlib_and_lies_behind_the_content() -> None:
    assert cobs_decode(encode_frame(b"abc")[:-1]) == b"abc" + struct.pack("<I", zlib.crc32(b"abc"))


def test_requests_and_replies_keep_message_status_sequence_and_payload() -> None:
    frame = protocol.decode(protocol.encode_request(Message.RUN, 0x1_0007, b"payload"))
    assert frame == (Message.RUN, False, 0, 7, b"payload")
    frame = protocol.decode(protocol.encode_reply(Message.RUN, 9, b"", Status.NO_ACTIVATIONS))
    assert frame == (Message.RUN, True, Status.NO_ACTIVATIONS, 9, b"")
    with pytest.raises(ProtocolError, match="3 bytes"):
        protocol.decode(b"abc")


def test_hello_round_trips_and_names_the_formats() -> None:
    again = Hello.decode(HELLO.encode())
    assert again == HELLO and again.macs_per_cycle == 128
    assert again.format_names == ("MXFP8", "MXFP8_E5M2", "MXFP6", "MXFP6_E3M2", "MXFP4", "MXINT8")


def test_hello_of_a_newer_minor_version_is_read_and_of_another_major_is_refused() -> None:
    payload = bytearray(HELLO.encode())
    payload[5] = 9
    assert Hello.decode(bytes(payload) + b"new fields").version == (1, 9)
    payload[4] = 2
    with pytest.raises(ProtocolError, match="speaks protocol 2, this host 1"):
        Hello.decode(bytes(payload))
    with pytest.raises(ProtocolError, match="no board of this protocol"):
        Hello.decode(b"HTTP/1.1 400 Bad Request and more of it, long enough")
    with pytest.raises(ProtocolError, match="at least"):
        Hello.decode(HELLO.encode()[:20])


def test_counters_and_energy_round_trip() -> None:
    counters = Counters(1 << 40, 2, 3, 4, 5, 6)
    assert Counters.decode(counters.encode()) == counters
    energy = Energy(EnergySource.MODELLED, EnergyScope.BOARD, 12, 1 << 50, 1 << 51)
    assert Energy.decode(energy.encode()) == energy
    with pytest.raises(ProtocolError, match="source 9"):
        Energy.decode(b"\x09" + energy.encode()[1:])
    with pytest.raises(ProtocolError, match="at least 48"):
        Counters.decode(b"")


def test_the_layouts_are_those_of_the_documentation() -> None:
    assert len(HELLO.encode()) == 48
    assert len(protocol.LoadBegin(1, 0, 28, 56, 0, 802816, 0, 25088).encode()) == 24
    assert len(protocol.load_chunk(1, 0, b"")) == 8
    assert len(protocol.activations(1, 0, 2, 28, 0, b"")) == 12
    assert len(protocol.run(1, 2, 0, 4)) == 8
    assert protocol.LOAD_CHUNK_DATA == 1984 and protocol.ACTIVATIONS_DATA == 2028
    assert protocol.decode_u32(b"\x01\x02\x00\x00") == 513


def test_bulk_frames_carry_more_than_95_percent_payload() -> None:
    data = bytes(protocol.LOAD_CHUNK_DATA)
    frame = encode_frame(protocol.encode_request(Message.LOAD_CHUNK, 1, protocol.load_chunk(0, 0, data)))
    assert len(data) / len(frame) > 0.95
