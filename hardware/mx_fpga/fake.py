"""A board made of software: speaks the protocol, byte for byte, and computes with :mod:`mx_fpga.arithmetic`.

For tests of host software where no simulator can be built, and as the protocol in executable form. It has memories,
handles and credits as a board has, and no notion of time: cycles are counted, not waited for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mx_plugin.formats.packing import unpack

from . import arithmetic, layout, protocol
from .elements import BLOCK, FORMATS, element_table
from .emulation import rows
from .framing import Deframer, encode_frame
from .layout import Geometry
from .protocol import Counters, Energy, EnergyScope, EnergySource, Hello, LoadBegin, Message, Status

DEFAULT = Hello(
    version=protocol.VERSION, formats=(1 << len(FORMATS)) - 1, lanes=BLOCK, rows=2, columns=2, group=8, handles=16,
    max_blocks=256, max_payload=protocol.MAX_PAYLOAD, credits=2, energy=EnergySource.NONE,
    element_bytes=1 << 20, scale_bytes=1 << 16, clock_hz=50_000_000, name="fake",
)  # fmt: skip

_U32 = struct.Struct("<I")
_BEGIN = struct.Struct("<BBHHHIIII")
_CHUNK = struct.Struct("<B3xI")
_ACTIVATIONS = struct.Struct("<HBBHHI")
_RUN = struct.Struct("<BxHHH")


class _Refusal(Exception):
    """A status other than OK, with the reply's payload."""

    def __init__(self, status: Status, payload: bytes = b"") -> None:
        self.status, self.payload = status, payload


@dataclass
class _Weight:
    """What LOAD_BEGIN announced; ``committed`` once LOAD_COMMIT has come."""

    begin: LoadBegin
    committed: bool = False
    operand: arithmetic.Operand | None = None


@dataclass
class _Activations:
    tag: int
    format: int
    tokens: int
    blocks: int
    data: bytearray

    @property
    def due(self) -> int:
        return self.tokens * self.blocks * (layout.block_bytes(FORMATS[self.format]) + 1)


class FakeBoard:
    """A board's state, and what it answers.

    Args:
        hello: what it says of itself; by default 2 x 2 dot units, 1 MiB for elements.
        microjoules_per_cycle: energy of a cycle with a RUN in execution, where ``hello.energy`` is not none.
    """

    def __init__(self, hello: Hello = DEFAULT, microjoules_per_cycle: float = 1.0) -> None:
        self.hello = hello
        self.geometry = Geometry.of(hello)
        self._microjoules_per_cycle = microjoules_per_cycle
        self.total_busy_cycles = 0
        """Since power-up, as energy is."""
        self.requests: list[Message] = []
        """Every request that came, in order."""
        self.power_up()

    def power_up(self) -> None:
        """As after a loss of power: nothing is loaded, and what lay in the memories is gone."""
        self.elements = bytearray(self.hello.element_bytes)
        self.scales = bytearray(self.hello.scale_bytes)
        self._deframer = Deframer()
        self._sent = 0
        self._received = 0
        self.reset()

    def reset(self) -> None:
        """RESET: handles, activations and counters are cleared."""
        self._weights: dict[int, _Weight] = {}
        self._loading: int | None = None
        self._taken = 0
        self._activations: _Activations | None = None
        self._cycles = self._busy = self._passes = 0
        self._sent = self._received = 0
        self._deframer.bad = 0

    def feed(self, data: bytes) -> bytes:
        """Bytes that the host sent; returns the bytes that go back."""
        before = self._deframer.bad
        contents = self._deframer.feed(data)
        self._cycles += len(data)
        replies = [protocol.encode_reply(Message.BAD_FRAME, 0, status=Status.BAD_FRAME)] * (self._deframer.bad - before)
        replies += [self._answer(content) for content in contents]
        self._sent += len(replies)
        return b"".join(encode_frame(reply) for reply in replies if reply)

    # ------------------------------------------------------------------ messages

    def _answer(self, content: bytes) -> bytes:
        if len(content) < protocol.HEADER.size:
            return protocol.encode_reply(Message.BAD_FRAME, 0, status=Status.BAD_FRAME)
        frame = protocol.decode(content)
        self._received += 1
        try:
            message = Message(frame.message)
            handler: Callable[[bytes], bytes] = getattr(self, _HANDLERS[message])
        except (ValueError, KeyError):
            header = protocol.HEADER.pack(frame.message | protocol.REPLY, Status.UNKNOWN_MESSAGE, frame.sequence)
            return header
        self.requests.append(message)
        try:
            return protocol.encode_reply(message, frame.sequence, handler(frame.payload))
        except _Refusal as refusal:
            return protocol.encode_reply(message, frame.sequence, refusal.payload, refusal.status)
        except struct.error:
            return protocol.encode_reply(message, frame.sequence, status=Status.BAD_LENGTH)

    def _hello(self, payload: bytes) -> bytes:
        struct.unpack_from("<BB", payload)
        return self.hello.encode()

    def _ping(self, payload: bytes) -> bytes:
        return payload

    def _reset(self, payload: bytes) -> bytes:
        self.reset()
        return b""

    def _load_begin(self, payload: bytes) -> bytes:
        handle, fmt, blocks, groups, _, *places = _BEGIN.unpack_from(payload)
        begin = LoadBegin(handle, fmt, blocks, groups, *places)
        geometry, hello = self.geometry, self.hello
        if handle >= hello.handles:
            raise _Refusal(Status.BAD_HANDLE)
        self._check_shape(fmt, blocks)
        sizes = layout.weight_sizes(groups * geometry.group_rows, blocks, FORMATS[fmt], geometry)
        if not groups or (begin.element_bytes, begin.scale_bytes) != sizes:
            raise _Refusal(Status.BAD_SHAPE)
        if begin.element_base % geometry.word_bytes or begin.scale_base % geometry.rows:
            raise _Refusal(Status.OUT_OF_MEMORY)
        if begin.element_base + begin.element_bytes > hello.element_bytes:
            raise _Refusal(Status.OUT_OF_MEMORY)
        if begin.scale_base + begin.scale_bytes > hello.scale_bytes:
            raise _Refusal(Status.OUT_OF_MEMORY)
        self._weights[handle] = _Weight(begin)
        self._loading, self._taken = handle, 0
        return b""

    def _load_chunk(self, payload: bytes) -> bytes:
        handle, offset = _CHUNK.unpack_from(payload)
        data = payload[_CHUNK.size :]
        begin = self._being_loaded(handle).begin
        end = offset + len(data)
        if end > begin.element_bytes + begin.scale_bytes:
            raise _Refusal(Status.BAD_LENGTH)
        if end <= self._taken:
            return b""
        if offset != self._taken:
            raise _Refusal(Status.BAD_OFFSET, _U32.pack(self._taken))
        split = min(max(begin.element_bytes - offset, 0), len(data))
        first = begin.element_base + offset
        self.elements[first : first + split] = data[:split]
        first = begin.scale_base + offset + split - begin.element_bytes
        self.scales[first : first + len(data) - split] = data[split:]
        self._taken = end
        for weight in self._weights.values():
            weight.operand = None  # it may have overlapped
        return b""

    def _load_commit(self, payload: bytes) -> bytes:
        (handle,) = struct.unpack_from("<B", payload)
        weight = self._being_loaded(handle)
        if self._taken < weight.begin.element_bytes + weight.begin.scale_bytes:
            raise _Refusal(Status.INCOMPLETE, _U32.pack(self._taken))
        weight.committed = True
        return b""

    def _free(self, payload: bytes) -> bytes:
        (handle,) = struct.unpack_from("<B", payload)
        if handle >= self.hello.handles:
            raise _Refusal(Status.BAD_HANDLE)
        self._weights.pop(handle, None)
        if self._loading == handle:
            self._loading = None
        return b""

    def _take_activations(self, payload: bytes) -> bytes:
        tag, fmt, tokens, blocks, _, offset = _ACTIVATIONS.unpack_from(payload)
        data = payload[_ACTIVATIONS.size :]
        self._check_shape(fmt, blocks)
        if not 0 < tokens <= self.hello.columns:
            raise _Refusal(Status.BAD_SHAPE)
        now = self._activations
        if offset == 0 or now is None or (now.tag, now.format, now.tokens, now.blocks) != (tag, fmt, tokens, blocks):
            now = _Activations(tag, fmt, tokens, blocks, bytearray())
        taken, end = len(now.data), offset + len(data)
        if end > now.due:
            raise _Refusal(Status.BAD_LENGTH)
        if offset > taken:
            raise _Refusal(Status.BAD_OFFSET, _U32.pack(taken))
        if end > taken:
            if offset != taken:
                raise _Refusal(Status.BAD_OFFSET, _U32.pack(taken))
            now.data += data
        self._activations = now
        return b""

    def _run(self, payload: bytes) -> bytes:
        handle, tag, first, groups = _RUN.unpack_from(payload)
        weight, x = self._weights.get(handle), self._activations
        if weight is None or not weight.committed:
            raise _Refusal(Status.BAD_HANDLE)
        if x is None or x.tag != tag:
            raise _Refusal(Status.NO_ACTIVATIONS)
        if len(x.data) < x.due:
            raise _Refusal(Status.INCOMPLETE, _U32.pack(len(x.data)))
        begin, geometry = weight.begin, self.geometry
        size = 4 * groups * geometry.group_rows * x.tokens
        if x.blocks != begin.blocks or not groups or first + groups > begin.groups or size > self.hello.max_payload:
            raise _Refusal(Status.BAD_SHAPE)
        y = self._multiply(self._x(x), self._w(weight, first, groups))
        cycles = layout.run_cycles(groups, begin.blocks, FORMATS[begin.format], FORMATS[x.format], geometry)
        self._passes += cycles
        self._busy += cycles
        self._cycles += cycles
        self.total_busy_cycles += cycles
        return y.T.tobytes()

    def _counters(self, payload: bytes) -> bytes:
        bad = self._deframer.bad
        return Counters(self._cycles, self._busy, self._passes, self._received, bad, self._sent).encode()

    def _read_energy(self, payload: bytes) -> bytes:
        if self.hello.energy is EnergySource.NONE:
            return Energy(EnergySource.NONE, EnergyScope.UNKNOWN, 0, 0, 0).encode()
        cycles = self.total_busy_cycles
        return Energy(
            self.hello.energy,
            EnergyScope.CORE_RAIL,
            cycles & 0xFFFFFFFF,
            int(cycles * self._microjoules_per_cycle),
            cycles * 1_000_000_000 // self.hello.clock_hz,
        ).encode()

    # ------------------------------------------------------------------ operands

    def _check_shape(self, fmt: int, blocks: int) -> None:
        if fmt >= len(FORMATS) or not self.hello.formats >> fmt & 1 or not 0 < blocks <= self.hello.max_blocks:
            raise _Refusal(Status.BAD_SHAPE)

    def _being_loaded(self, handle: int) -> _Weight:
        if handle != self._loading:
            raise _Refusal(Status.NOT_LOADING)
        return self._weights[handle]

    def _x(self, x: _Activations) -> arithmetic.Operand:
        fmt = FORMATS[x.format]
        packed = np.frombuffer(x.data, np.uint8).reshape(x.tokens, -1)
        split = x.blocks * layout.block_bytes(fmt)
        return self._decode(packed[:, :split], packed[:, split:], fmt)

    def _w(self, weight: _Weight, first: int, groups: int) -> arithmetic.Operand:
        """Groups of a weight, read from the memories in the order in which a board reads them."""
        begin, geometry = weight.begin, self.geometry
        if weight.operand is None:
            fmt = FORMATS[begin.format]
            shape = (begin.groups, begin.blocks, geometry.group, geometry.rows)
            elements = np.frombuffer(self.elements, np.uint8, begin.element_bytes, begin.element_base)
            scales = np.frombuffer(self.scales, np.uint8, begin.scale_bytes, begin.scale_base)
            count = begin.groups * geometry.group_rows
            in_rows = elements.reshape(*shape, layout.block_bytes(fmt)).transpose(0, 2, 3, 1, 4).reshape(count, -1)
            weight.operand = self._decode(in_rows, scales.reshape(shape).transpose(0, 2, 3, 1).reshape(count, -1), fmt)
        first_row = first * geometry.group_rows
        return rows(weight.operand, slice(first_row, first_row + groups * geometry.group_rows))

    def _decode(self, elements: layout.Bytes, scales: layout.Bytes, fmt: str) -> arithmetic.Operand:
        """Packed rows (whole blocks) as an operand."""
        packed = torch.from_numpy(np.ascontiguousarray(elements))
        codes = unpack(packed, element_table(fmt).bits, scales.shape[1] * BLOCK).numpy()
        return arithmetic.decode(codes, np.ascontiguousarray(scales), fmt)

    def _multiply(self, x: arithmetic.Operand, w: arithmetic.Operand) -> NDArray[np.float32]:
        """Float32 of shape (tokens, rows)."""
        return arithmetic.matmul(x, w)


# By name, so that a board which is broken on purpose may override one.
_HANDLERS = {
    Message.HELLO: "_hello",
    Message.PING: "_ping",
    Message.RESET: "_reset",
    Message.LOAD_BEGIN: "_load_begin",
    Message.LOAD_CHUNK: "_load_chunk",
    Message.LOAD_COMMIT: "_load_commit",
    Message.FREE: "_free",
    Message.ACTIVATIONS: "_take_activations",
    Message.RUN: "_run",
    Message.COUNTERS: "_counters",
    Message.READ_ENERGY: "_read_energy",
}
