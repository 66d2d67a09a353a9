"""The protocol spoken by hand over a pseudo terminal: one request, one reply, no retries, none of the host's side."""

from __future__ import annotations

import os
import select
import time
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mx_fpga import layout, protocol
from mx_fpga.elements import format_number
from mx_fpga.framing import Deframer, encode_frame
from mx_fpga.layout import Geometry
from mx_fpga.protocol import Frame, Hello, LoadBegin, Message, Status


class Refused(Exception):
    """A reply with another status than OK."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(f"{Message(frame.message).name}: {Status(frame.status).name}")
        self.status, self.payload = Status(frame.status), frame.payload


class RawBoard:
    """A board at a pseudo terminal's path.

    ``first`` is sent before anything else; what the board says of it (a bad frame, perhaps) is passed over.
    """

    def __init__(self, path: str, first: bytes = b"") -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        self.deframer, self.sequence = Deframer(), 0
        self.frames: list[Frame] = []
        self.tag = 0
        self.send(first)
        self.hello = Hello.decode(self.ask(Message.HELLO, protocol.hello_request()))
        self.geometry = Geometry.of(self.hello)

    def __enter__(self) -> RawBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.fd, data) :]

    def receive(self, timeout: float = 60.0) -> Frame:
        """The next frame of the board."""
        end = time.monotonic() + timeout
        while not self.frames:
            readable, _, _ = select.select([self.fd], [], [], max(end - time.monotonic(), 0))
            assert readable, f"no answer within {timeout} s"
            self.frames += map(protocol.decode, self.deframer.feed(os.read(self.fd, 65536)))
        return self.frames.pop(0)

    def ask(self, message: Message, payload: bytes = b"") -> bytes:
        """The payload of the reply."""
        self.sequence = (self.sequence + 1) & 0xFFFF
        self.send(encode_frame(protocol.encode_request(message, self.sequence, payload)))
        frame = self.receive()
        while frame.message == Message.BAD_FRAME and self.sequence == 1:
            frame = self.receive()
        assert frame.is_reply and frame.message == message and frame.sequence == self.sequence, frame
        if frame.status:
            raise Refused(frame)
        return frame.payload

    def load(
        self, handle: int, elements: NDArray[np.uint8], scales: NDArray[np.uint8], fmt: str,
        element_base: int = 0, scale_base: int = 0,
    ) -> None:  # fmt: skip
        """Load packed rows, as ``layout.weight_stream`` takes them."""
        rows, blocks = scales.shape
        sizes = layout.weight_sizes(rows, blocks, fmt, self.geometry)
        stream = layout.weight_stream(elements, scales, fmt, self.geometry)
        groups = self.geometry.groups(rows)
        begin = LoadBegin(handle, format_number(fmt), blocks, groups, element_base, sizes[0], scale_base, sizes[1])
        self.ask(Message.LOAD_BEGIN, begin.encode())
        for at in range(0, len(stream), protocol.LOAD_CHUNK_DATA):
            part = stream[at : at + protocol.LOAD_CHUNK_DATA]
            self.ask(Message.LOAD_CHUNK, protocol.load_chunk(handle, at, part))
        self.ask(Message.LOAD_COMMIT, protocol.handle_only(handle))

    def give(self, elements: NDArray[np.uint8], scales: NDArray[np.uint8], fmt: str) -> None:
        """Activations of up to ``columns`` tokens, under a new tag."""
        self.tag = (self.tag + 1) & 0xFFFF
        stream = layout.activation_stream(elements, scales, fmt)
        for at in range(0, len(stream), protocol.ACTIVATIONS_DATA):
            part = stream[at : at + protocol.ACTIVATIONS_DATA]
            self.ask(Message.ACTIVATIONS, protocol.activations(self.tag, format_number(fmt), *scales.shape, at, part))

    def run(self, handle: int, rows: int, tokens: int) -> NDArray[np.float32]:
        """Every row of a weight: float32 of shape (tokens, rows)."""
        groups = self.geometry.groups(rows)
        most = layout.groups_per_run(tokens, self.hello.max_payload, self.geometry)
        parts = []
        for first in range(0, groups, most):
            count = min(most, groups - first)
            reply = self.ask(Message.RUN, protocol.run(handle, self.tag, first, count))
            parts.append(layout.results(reply, tokens, self.geometry))
        return np.concatenate(parts, axis=1)[:, :rows]
