"""The messages between host and board: ids, layouts, status codes. Pure encoding and decoding, no I/O.

A frame's content is a header of four bytes - message, status, sequence (u16) - and a payload. All integers are
little-endian. A reply carries the request's message with bit 7 set and its sequence number. docs/fpga.md, "Protocol",
is this in words.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from .elements import FORMATS
from .framing import MAX_CONTENT

VERSION = (1, 0)
"""Protocol version (major, minor). Another major is not understood; a newer minor only adds messages or fields."""

MAGIC = b"MXFB"
REPLY = 0x80
HEADER = struct.Struct("<BBH")
MAX_PAYLOAD = MAX_CONTENT - HEADER.size
"""2040 bytes."""


class ProtocolError(ValueError):
    """Content that is no message of this protocol; says which bytes are wrong."""


class Message(IntEnum):
    HELLO = 0x01
    PING = 0x02
    RESET = 0x03
    LOAD_BEGIN = 0x04
    LOAD_CHUNK = 0x05
    LOAD_COMMIT = 0x06
    FREE = 0x07
    ACTIVATIONS = 0x08
    RUN = 0x09
    COUNTERS = 0x0A
    READ_ENERGY = 0x0B
    BAD_FRAME = 0x7F
    """Never a request. The board sends it as a reply (0xff) with sequence 0 when bytes arrived that were no frame."""


class Status(IntEnum):
    """Why a request was refused; OK is 0. A refused request has changed nothing."""

    OK = 0
    UNKNOWN_MESSAGE = 1
    BAD_LENGTH = 2
    BAD_HANDLE = 3
    """The handle is out of range, or holds no committed weight."""
    OUT_OF_MEMORY = 4
    """base + size lies beyond the element or scale memory."""
    BAD_OFFSET = 5
    """The chunk does not start where the last ended; the payload says where it should (u32)."""
    INCOMPLETE = 6
    """LOAD_COMMIT before all bytes, RUN before all activations; the payload says how many have come (u32)."""
    BAD_SHAPE = 7
    """Blocks, groups, tokens or format are zero or beyond what HELLO and LOAD_BEGIN state, or the weight and the
    activations differ in blocks."""
    NO_ACTIVATIONS = 8
    """RUN's tag is not that of the activations on the board (after a reset, for example)."""
    NOT_LOADING = 9
    """LOAD_CHUNK or LOAD_COMMIT for a handle that LOAD_BEGIN did not name last."""
    BAD_FRAME = 10
    """Only with message BAD_FRAME."""


class EnergySource(IntEnum):
    NONE = 0
    MEASURED = 1
    MODELLED = 2


class EnergyScope(IntEnum):
    """What the energy is of."""

    UNKNOWN = 0
    CORE_RAIL = 1
    BOARD = 2


class Frame(NamedTuple):
    """One message, decoded as far as its header. ``message`` is without bit 7."""

    message: int
    is_reply: bool
    status: int
    sequence: int
    payload: bytes


def encode_request(message: Message, sequence: int, payload: bytes = b"") -> bytes:
    """Content of a request; wrap it with ``framing.encode_frame``.

    Raises:
        ProtocolError: more than ``MAX_PAYLOAD`` bytes of payload.
    """
    if len(payload) > MAX_PAYLOAD:
        raise ProtocolError(f"payload of {len(payload)} bytes; a frame carries {MAX_PAYLOAD}")
    return HEADER.pack(message, 0, sequence & 0xFFFF) + payload


def encode_reply(message: Message, sequence: int, payload: bytes = b"", status: Status = Status.OK) -> bytes:
    """Content of a reply: what a board sends (here for boards made of software, and for tests)."""
    return HEADER.pack(message | REPLY, status, sequence & 0xFFFF) + payload


def decode(content: bytes) -> Frame:
    """Split content into header and payload.

    Raises:
        ProtocolError: shorter than a header.
    """
    if len(content) < HEADER.size:
        raise ProtocolError(f"{len(content)} bytes are no message: a header has {HEADER.size}")
    message, status, sequence = HEADER.unpack_from(content)
    return Frame(message & ~REPLY, bool(message & REPLY), status, sequence, content[HEADER.size :])


_HELLO_REQUEST = struct.Struct("<BB")
_HELLO = struct.Struct("<4sBBHBBBBHHHBBIII16s")


@dataclass(frozen=True)
class Hello:
    """What a board says of itself.

    ``formats``: bit n stands for ``elements.FORMATS[n]``. ``lanes``: elements that a dot unit multiplies in a cycle,
    always 32. ``rows`` x ``columns`` dot units: weight rows and tokens multiplied at once. ``group``: rows that take
    turns in one dot unit; a weight's rows are padded to a multiple of rows * group. ``handles``: handles 0..n-1.
    ``max_blocks``: blocks in a row at most. ``max_payload``: bytes of payload in a frame at most. ``credits``: requests
    that may be under way at once. ``element_bytes``, ``scale_bytes``: the two weight memories. ``clock_hz``: cycles a
    second.
    """

    version: tuple[int, int]
    formats: int
    lanes: int
    rows: int
    columns: int
    group: int
    handles: int
    max_blocks: int
    max_payload: int
    credits: int
    energy: EnergySource
    element_bytes: int
    scale_bytes: int
    clock_hz: int
    name: str

    @property
    def format_names(self) -> tuple[str, ...]:
        return tuple(name for number, name in enumerate(FORMATS) if self.formats >> number & 1)

    @property
    def macs_per_cycle(self) -> int:
        return self.lanes * self.rows * self.columns

    def encode(self) -> bytes:
        """Payload of the reply."""
        return _HELLO.pack(
            MAGIC, *self.version, self.formats, self.lanes, self.rows, self.columns, self.group, self.handles,
            self.max_blocks, self.max_payload, self.credits, self.energy, self.element_bytes, self.scale_bytes,
            self.clock_hz, self.name.encode("ascii")[:16],
        )  # fmt: skip

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        """Read a reply's payload; a newer minor version may have appended fields, which are ignored.

        Raises:
            ProtocolError: not a board of this protocol, another major version, or too short.
        """
        if payload[:4] != MAGIC:
            raise ProtocolError(f"no board of this protocol: HELLO starts with {payload[:4]!r}, not {MAGIC!r}")
        if len(payload) > 4 and payload[4] != VERSION[0]:
            raise ProtocolError(
                f"the board speaks protocol {payload[4]}, this host {VERSION[0]}: install the mx-plugin that fits the "
                "board, or load its bitstream again"
            )
        if len(payload) < _HELLO.size:
            raise ProtocolError(f"HELLO has {len(payload)} bytes, at least {_HELLO.size} are due")
        major, minor, *middle, energy, element_bytes, scale_bytes, clock, name = _HELLO.unpack_from(payload)[1:]
        formats, lanes, rows, columns, group, handles, max_blocks, max_payload, credits = middle
        try:
            source = EnergySource(energy)
        except ValueError:
            raise ProtocolError(f"energy capability {energy} is unknown; valid: 0..2") from None
        text = name.rstrip(b"\0").decode("ascii", "replace")
        return cls(
            (major, minor), formats, lanes, rows, columns, group, handles, max_blocks, max_payload, credits,
            source, element_bytes, scale_bytes, clock, text,
        )  # fmt: skip


def hello_request() -> bytes:
    """Payload: the host's protocol version."""
    return _HELLO_REQUEST.pack(*VERSION)


_LOAD_BEGIN = struct.Struct("<BBHHHIIII")


@dataclass(frozen=True)
class LoadBegin:
    """Announce a weight. The host owns both memories and chooses where it lies; the board checks the bounds.

    ``element_base`` and ``element_bytes`` are multiples of ``layout.word_bytes``, ``scale_base`` and ``scale_bytes`` of
    ``rows``. ``groups``: groups of rows * group rows.
    """

    handle: int
    format: int
    blocks: int
    groups: int
    element_base: int
    element_bytes: int
    scale_base: int
    scale_bytes: int

    def encode(self) -> bytes:
        return _LOAD_BEGIN.pack(
            self.handle, self.format, self.blocks, self.groups, 0,
            self.element_base, self.element_bytes, self.scale_base, self.scale_bytes,
        )  # fmt: skip


_LOAD_CHUNK = struct.Struct("<B3xI")
_HANDLE = struct.Struct("<B")
LOAD_CHUNK_DATA = (MAX_PAYLOAD - _LOAD_CHUNK.size) & ~63
"""Data bytes in a chunk: 1984."""


def load_chunk(handle: int, offset: int, data: bytes) -> bytes:
    """Payload of LOAD_CHUNK: bytes of the weight's stream (elements, then scales) from ``offset`` on.

    Chunks come in order. One that was taken already is acknowledged again and changes nothing.
    """
    return _LOAD_CHUNK.pack(handle, offset) + data


def handle_only(handle: int) -> bytes:
    """Payload of LOAD_COMMIT and FREE."""
    return _HANDLE.pack(handle)


_ACTIVATIONS = struct.Struct("<HBBHHI")
ACTIVATIONS_DATA = MAX_PAYLOAD - _ACTIVATIONS.size
"""Data bytes in a part: 2028."""


def activations(tag: int, fmt: int, tokens: int, blocks: int, offset: int, data: bytes) -> bytes:
    """Payload of ACTIVATIONS: bytes of the activations' stream from ``offset`` on.

    Parts come in order; a new ``tag``, or offset 0, starts anew. The tag is the host's, any u16.
    """
    return _ACTIVATIONS.pack(tag, fmt, tokens, blocks, 0, offset) + data


_RUN = struct.Struct("<BxHHH")


def run(handle: int, tag: int, first_group: int, groups: int) -> bytes:
    """Payload of RUN: multiply ``groups`` groups of the weight from ``first_group`` on with the activations.

    The reply's payload is ``layout.results``: groups * group * rows * tokens float32, at most ``max_payload`` bytes.
    """
    return _RUN.pack(handle, tag, first_group, groups)


_COUNTERS = struct.Struct("<6Q")


@dataclass(frozen=True)
class Counters:
    """Since power-up or RESET. ``cycles``: of the clock. ``busy_cycles``: with a RUN in execution. ``passes``: cycles
    in which the dot units multiplied, so MACs = passes * 32 * rows * tokens / elements.passes(weights, activations).
    """

    cycles: int
    busy_cycles: int
    passes: int
    frames_received: int
    frames_bad: int
    frames_sent: int

    def encode(self) -> bytes:
        return _COUNTERS.pack(
            self.cycles, self.busy_cycles, self.passes, self.frames_received, self.frames_bad, self.frames_sent
        )

    @classmethod
    def decode(cls, payload: bytes) -> Counters:
        """Raises ProtocolError where too short."""
        return cls(*_unpack(_COUNTERS, payload, "COUNTERS"))


_ENERGY = struct.Struct("<BBHIQQ")


@dataclass(frozen=True)
class Energy:
    """Reply of READ_ENERGY: what has been used since power-up, as running totals.

    ``source`` NONE: the other fields mean nothing. ``microjoules`` over ``nanoseconds``, from ``samples`` readings.
    """

    source: EnergySource
    scope: EnergyScope
    samples: int
    microjoules: int
    nanoseconds: int

    def encode(self) -> bytes:
        return _ENERGY.pack(self.source, self.scope, 0, self.samples, self.microjoules, self.nanoseconds)

    @classmethod
    def decode(cls, payload: bytes) -> Energy:
        """Read a reply's payload.

        Raises:
            ProtocolError: too short, or a source that this version does not know.
        """
        source, scope, _, samples, microjoules, nanoseconds = _unpack(_ENERGY, payload, "READ_ENERGY")
        if source not in set(EnergySource):
            raise ProtocolError(f"energy source {source} is unknown; valid: 0 none, 1 measured, 2 modelled")
        known = EnergyScope(scope) if scope in set(EnergyScope) else EnergyScope.UNKNOWN
        return cls(EnergySource(source), known, samples, microjoules, nanoseconds)


def decode_u32(payload: bytes) -> int:
    """The number in the payload of BAD_OFFSET and INCOMPLETE.

    Raises:
        ProtocolError: too short.
    """
    return int(_unpack(struct.Struct("<I"), payload, "a refusal")[0])


def _unpack(layout: struct.Struct, payload: bytes, what: str) -> tuple[int, ...]:
    if len(payload) < layout.size:
        raise ProtocolError(f"{what} has {len(payload)} bytes, at least {layout.size} are due")
    return layout.unpack_from(payload)
