"""What a check of a board gets: the board, a look at single frames, and requests without the host's own books."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mx_plugin.formats import MXTensor
from mx_plugin.testing import Fault, NotApplicable, Trial

from .. import layout, protocol, selftest
from ..board import Board
from ..elements import BLOCK, format_number
from ..errors import Refused
from ..framing import Deframer, encode_frame
from ..layout import Geometry
from ..link import Link
from ..port import BytePort
from ..protocol import Frame, Hello, LoadBegin, Message, Status
from ..weights import as_array
from .faulty_port import FaultyPort, Plug
from .faulty_wire import FaultyWire

MARKER = b"conformance"
QUICK_S = 0.3
"""Time limit of a reply, where a check needs some that stay away."""


class BoardTrial(Trial):
    """``board``: opened, and closed again by the kit. Handles, addresses and tags of ``load``, ``give`` and ``run`` are
    the check's own: mix them with ``board.load_weight`` only after a reset."""

    _tap: _Tap | None = None
    _tag = 0

    @property
    def board(self) -> Board:
        board: Board = self.plugin
        return board

    @property
    def hello(self) -> Hello:
        return self.board.hello

    @property
    def geometry(self) -> Geometry:
        return self.board.geometry

    @property
    def link(self) -> Link:
        """The board's link.

        Raises:
            NotApplicable: it is of another class, in which nothing can be put in the way of bytes.
        """
        link = self.board.link
        if not isinstance(link, Link):
            raise NotApplicable(f"its link is a {type(link).__name__}, not an mx_fpga.link.Link: no way to its bytes")
        return link

    # ------------------------------------------------------------------ demands

    def passes(self, check: selftest.Check, what: str = "", remedy: str = "") -> None:
        """Raise a Fault unless a check of ``mx-plugin fpga selftest`` passes."""
        try:
            check(self.board)
        except selftest.SelftestFault as fault:
            raise Fault(f"{what}: {fault}" if what else str(fault), remedy) from None

    def demand_product(self, w: MXTensor, x: MXTensor, what: str, remedy: str = "") -> None:
        """Raise a Fault unless the board's product has the bits of ``emulate``."""
        self.passes(lambda board: selftest.same(board, w, x), what, remedy)

    def demand_bits(self, y: NDArray[np.float32], w: MXTensor, x: MXTensor, what: str, remedy: str = "") -> None:
        """Raise a Fault unless ``y``, float32 of shape (tokens, rows), has the bits of ``emulate``."""
        try:
            selftest.demand_bits(y, selftest.expected(x, w))
        except selftest.SelftestFault as fault:
            raise Fault(f"{what}: {fault}", remedy) from None

    def demand_refused(self, message: Message, payload: bytes, status: Status, why: str) -> bytes:
        """Raise a Fault unless a request is refused with ``status``; the refusal's payload."""
        try:
            self.board.link.request(message, payload)
        except Refused as refused:
            if refused.status == status:
                return refused.payload
            raise Fault(f"{message.name} {why} should be refused with {status.name}; {refused}") from None
        raise Fault(f"{message.name} {why} should be refused with {status.name}, but was taken")

    def weight(self, groups: int, blocks: int, seed: int = 1) -> MXTensor:
        """A weight of so many groups of rows, of the first format; of fewer where they exceed the board's memory."""
        fmt = self.hello.format_names[0]
        length = selftest.that_fits(self.board, blocks * BLOCK)
        groups = min(groups, self.board.memory.groups_that_fit(length // BLOCK, fmt))
        return selftest.exact_codes(groups * self.geometry.group_rows, length, fmt, seed)

    def activations(self, w: MXTensor, tokens: int = 1) -> MXTensor:
        """Activations for a weight, of the first format."""
        return selftest.exact_codes(tokens, w.shape[1], self.hello.format_names[0], 99)

    # ------------------------------------------------------------------ bytes

    def damaged(self, wire: FaultyWire, plug: Plug | None = None) -> None:
        """From now on bytes go through ``wire``, and what gets lost is asked for again soon."""
        self.hurry()
        self.link.through(lambda port: FaultyPort(port, wire, plug))

    def hurry(self) -> None:
        """Do not wait long for replies that stay away, where the board's link is ours."""
        if isinstance(self.board.link, Link):
            self.board.link.timeout_s, self.board.link.backoff_s = QUICK_S, 0.001

    def talk(self, sent: bytes) -> list[Frame]:
        """Everything that the board answers to ``sent``, bytes as they go over the wire."""
        if self._tap is None:
            self.link.through(self._listen)
        assert self._tap is not None
        self._tap.heard.clear()
        self.link.disturb(sent)
        self.board.ping(MARKER)  # answered behind everything that came before
        frames = map(protocol.decode, Deframer().feed(bytes(self._tap.heard)))
        return [frame for frame in frames if frame.payload != MARKER]

    def _listen(self, port: BytePort) -> BytePort:
        self._tap = _Tap(port)
        return self._tap

    # ------------------------------------------------------------------ requests

    def load_requests(self, handle: int, w: MXTensor, base: tuple[int, int] = (0, 0)) -> list[tuple[Message, bytes]]:
        """LOAD_BEGIN, every LOAD_CHUNK, LOAD_COMMIT of a weight at ``base`` = (elements, scales)."""
        fmt, (rows, blocks) = w.format.name, w.scales.shape
        sizes = layout.weight_sizes(rows, blocks, fmt, self.geometry)
        stream = layout.weight_stream(as_array(w.elements), as_array(w.scales), fmt, self.geometry)
        groups = self.geometry.groups(rows)
        begin = LoadBegin(handle, format_number(fmt), blocks, groups, base[0], sizes[0], base[1], sizes[1])
        size = min(protocol.LOAD_CHUNK_DATA, (self.hello.max_payload - 8) & ~63)
        chunks = [
            (Message.LOAD_CHUNK, protocol.load_chunk(handle, at, stream[at : at + size]))
            for at in range(0, len(stream), size)
        ]
        commit = (Message.LOAD_COMMIT, protocol.handle_only(handle))
        return [(Message.LOAD_BEGIN, begin.encode()), *chunks, commit]

    def give_requests(self, x: MXTensor) -> list[tuple[Message, bytes]]:
        """Every ACTIVATIONS of up to ``columns`` tokens, under a new tag."""
        self._tag += 1
        fmt = x.format.name
        stream = layout.activation_stream(as_array(x.elements), as_array(x.scales), fmt)
        size = min(protocol.ACTIVATIONS_DATA, self.hello.max_payload - 12)
        number, (tokens, blocks) = format_number(fmt), x.scales.shape
        return [
            (Message.ACTIVATIONS, protocol.activations(self._tag, number, tokens, blocks, at, stream[at : at + size]))
            for at in range(0, len(stream), size)
        ]

    def run_requests(self, handle: int, rows: int, tokens: int) -> list[tuple[Message, bytes]]:
        """Every RUN of a whole weight with the activations that were given last."""
        groups = self.geometry.groups(rows)
        most = layout.groups_per_run(tokens, self.hello.max_payload, self.geometry)
        return [
            (Message.RUN, protocol.run(handle, self._tag, first, min(most, groups - first)))
            for first in range(0, groups, most)
        ]

    def load(self, handle: int, w: MXTensor, base: tuple[int, int] = (0, 0)) -> None:
        """Load a weight under a handle of the check's own choice."""
        self.board.link.exchange(self.load_requests(handle, w, base))

    def multiply(self, handle: int, w: MXTensor, x: MXTensor) -> NDArray[np.float32]:
        """Give activations, at most ``columns`` tokens, and RUN: float32 of shape (tokens, rows)."""
        self.board.link.exchange(self.give_requests(x))
        return self.results(self.board.link.exchange(self.run_requests(handle, w.shape[0], x.shape[0])), w, x)

    def results(self, replies: Sequence[bytes], w: MXTensor, x: MXTensor) -> NDArray[np.float32]:
        """Replies of RUNs put together."""
        parts = [layout.results(reply, x.shape[0], self.geometry) for reply in replies]
        return np.concatenate(parts, axis=1)[:, : w.shape[0]]


class _Tap:
    """A port that keeps what came through it."""

    def __init__(self, port: BytePort) -> None:
        self.port, self.heard = port, bytearray()

    def read(self, timeout_s: float) -> bytes:
        data = self.port.read(timeout_s)
        self.heard += data
        return data

    def write(self, data: bytes) -> None:
        self.port.write(data)

    def close(self) -> None:
        self.port.close()


def frame(message: int, sequence: int, payload: bytes = b"") -> bytes:
    """A request as it goes over the wire; ``message`` may be one that there is not."""
    return encode_frame(protocol.HEADER.pack(message, 0, sequence) + payload)
