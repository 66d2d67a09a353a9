"""A board: weights are loaded once, activations go there, results come back.

A board may lose what it holds at any time - a reset, a plug that was pulled - and is then introduced and loaded anew.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from mx_plugin.errors import FormatError
from mx_plugin.formats import MXTensor

from . import layout, protocol
from .elements import BLOCK, format_number
from .errors import BoardError, LinkError, LinkReopened, Refused
from .layout import Geometry
from .link import Link
from .memory import Memory, Place
from .protocol import Counters, Energy, Hello, Message, ProtocolError
from .recovery import Recovery
from .weights import BoardWeight, Chunk, as_array, check_format, prepare
from .window import Request

log = logging.getLogger(__name__)

_open: WeakSet[Board] = WeakSet()


def open_boards() -> list[Board]:
    """The boards that this process has open, for meters."""
    return sorted(_open, key=lambda board: board.name)


@dataclass
class Traffic:
    """What a board was given since it was opened. ``loads``: of chunks, reloads included. ``recoveries``: times that it
    had lost something and got it again."""

    loads: int = 0
    loaded_bytes: int = 0
    runs: int = 0
    tokens: int = 0
    recoveries: int = 0


class Board:
    """What :meth:`open` returns. Safe to use from several threads.

    Args:
        link: the way to the board; closed with it.
        simulated: it is no hardware, so that it can measure nothing.
        on_close: called last, e.g. to end a simulator.

    Raises:
        BoardError: what answers is no board of this protocol.
        LinkError: nothing answers.
    """

    def __init__(self, link: Link, *, simulated: bool = False, on_close: Callable[[], object] | None = None) -> None:
        self.link = link
        self.simulated = simulated
        self.traffic = Traffic()
        self._on_close = on_close
        self._lock = threading.RLock()
        self._tag = 0
        try:
            self.hello = self._first_hello()
            self.geometry = Geometry.of(self.hello)
            self._check_geometry()
            self.memory = Memory(self.hello)
            self._start_from_nothing()
            self.energy_when_opened = self._first_reading()
        except BaseException:
            self.close()
            raise
        _open.add(self)

    @classmethod
    def open(
        cls, url: str, *, simulated: bool = False, on_close: Callable[[], object] | None = None, **link: Any
    ) -> Board:
        """The board at a serial URL; ``link`` holds options of :class:`~mx_fpga.link.Link`."""
        return cls(Link(url, **link), simulated=simulated, on_close=on_close)

    # ------------------------------------------------------------------ weights

    def load_weight(self, packed: MXTensor, *, now: bool = True) -> BoardWeight:
        """Load a weight of shape (out, in), blocked along ``in``; what was used least recently makes room.

        A weight larger than the memory is split into chunks of rows, which take turns there: right, but every product
        loads it anew. ``now=False`` only checks it and loads it when it is first multiplied.

        Raises:
            FormatError: not two-dimensional, blocked along ``out``, or not a format of this board.
            DoesNotFit: a row is longer than the board can take, or not even a group of rows fits; says the sizes.
            LinkError: the board cannot be reached.
        """
        weight = prepare(packed, self.hello)
        if now and len(weight.chunks) == 1:
            with self._lock:
                self._load_surely(weight, weight.chunks[0])
        return weight

    def unload_weight(self, weight: BoardWeight) -> None:
        """Its memory on the board may be used for others. Idempotent."""
        with self._lock:
            for chunk in weight.chunks:
                self.memory.drop(chunk)

    def _resident(self, weight: BoardWeight, chunk: Chunk) -> Place:
        """Where the chunk lies; loads it if need be."""
        return self.memory.find(chunk) or self._load(weight, chunk)

    def _load(self, weight: BoardWeight, chunk: Chunk) -> Place:
        part = slice(chunk.first_row, chunk.first_row + chunk.rows)
        stream = layout.weight_stream(weight.elements[part], weight.scales[part], weight.format, self.geometry)
        sizes = layout.weight_sizes(chunk.rows, weight.blocks, weight.format, self.geometry)
        place, evicted = self.memory.place(chunk, *sizes)
        if evicted:
            log.debug("board %s: %d weights make room for another", self.hello.name, len(evicted))
        begin = protocol.LoadBegin(
            place.handle, format_number(weight.format), weight.blocks, chunk.groups,
            place.element_base, sizes[0], place.scale_base, sizes[1],
        )  # fmt: skip
        size = min(protocol.LOAD_CHUNK_DATA, (self.hello.max_payload - 8) & ~63)
        requests: list[Request] = [(Message.LOAD_BEGIN, begin.encode())]
        requests += [
            (Message.LOAD_CHUNK, protocol.load_chunk(place.handle, offset, stream[offset : offset + size]))
            for offset in range(0, len(stream), size)
        ]
        requests.append((Message.LOAD_COMMIT, protocol.handle_only(place.handle)))
        try:
            self.link.exchange(requests, since=self._met)
        except BaseException:
            self.memory.drop(chunk)
            raise
        self.traffic.loads += 1
        self.traffic.loaded_bytes += len(stream)
        return place

    def _load_surely(self, weight: BoardWeight, chunk: Chunk) -> None:
        recovery = Recovery(self)
        while True:
            try:
                self._resident(weight, chunk)
                return
            except (Refused, LinkReopened) as error:
                recovery.after(error, progress=False)

    # ------------------------------------------------------------------ products

    def run(self, weight: BoardWeight, x: MXTensor) -> NDArray[np.float32]:
        """X W^T: activations of shape (tokens, in), blocked along ``in``; float32 of shape (tokens, out).

        Bit for bit what :func:`mx_fpga.arithmetic.matmul` answers.

        Raises:
            FormatError: x does not fit the weight, or is in a format that this board does not multiply.
            BoardError: the board lost what it was given again and again, or refuses.
            LinkError: the board cannot be reached.
        """
        check_format(x, self.hello)
        if len(x.shape) != 2 or x.dim != 1 or x.shape[1] != weight.length:
            raise FormatError(
                f"activations of shape {tuple(x.shape)} blocked along {x.dim}; the weight needs "
                f"(tokens, {weight.length}) blocked along in"
            )
        out = np.empty((x.shape[0], weight.rows), np.float32)
        with self._lock:
            for chunk in weight.chunks:
                out[:, chunk.first_row : chunk.first_row + chunk.rows] = self._run_chunk(weight, chunk, x)
            self.traffic.runs += 1
            self.traffic.tokens += x.shape[0]
        return out

    def _run_chunk(self, weight: BoardWeight, chunk: Chunk, x: MXTensor) -> NDArray[np.float32]:
        """Token batches one behind the other; after a loss, from the first that was not finished.

        A batch's activations take the place of the last one's, so that a RUN that got lost may find them gone. The
        batch is then repeated by itself, where the link mends every loss.
        """
        tokens = x.shape[0]
        out = np.empty((tokens, chunk.rows), np.float32)
        elements, scales = as_array(x.elements), as_array(x.scales)
        recovery, done, columns = Recovery(self), 0, self.geometry.columns
        alone = False
        while done < tokens:
            batches: list[_Batch] = []
            try:
                place = self._resident(weight, chunk)
                for first in range(done, min(done + columns, tokens) if alone else tokens, columns):
                    part = slice(first, min(first + columns, tokens))
                    stream = layout.activation_stream(elements[part], scales[part], x.format.name)
                    batches.append(self._batch(part, stream, format_number(x.format.name), place, chunk, weight.blocks))
                requests = (request for batch in batches for request in batch.requests)
                replies = self.link.exchange(requests, since=self._met)
                done, alone = self._store(out, batches, replies), False
            except (Refused, LinkReopened) as error:
                before, alone = done, True
                if isinstance(error, Refused) and batches:
                    done = max(done, self._store(out, batches, error.replies))
                recovery.after(error, progress=done > before)
        return out

    def _batch(self, part: slice, stream: bytes, fmt: int, place: Place, chunk: Chunk, blocks: int) -> _Batch:
        tokens = part.stop - part.start
        self._tag = (self._tag + 1) & 0xFFFF
        batch = _Batch(part)
        size = min(protocol.ACTIVATIONS_DATA, self.hello.max_payload - 12)
        for offset in range(0, len(stream), size):
            data = stream[offset : offset + size]
            payload = protocol.activations(self._tag, fmt, tokens, blocks, offset, data)
            batch.requests.append((Message.ACTIVATIONS, payload))
        batch.uploads = len(batch.requests)
        most = layout.groups_per_run(tokens, self.hello.max_payload, self.geometry)
        for first in range(0, chunk.groups, most):
            payload = protocol.run(place.handle, self._tag, first, min(most, chunk.groups - first))
            batch.requests.append((Message.RUN, payload))
        return batch

    def _store(self, out: NDArray[np.float32], batches: list[_Batch], replies: list[bytes]) -> int:
        """Put the results of all finished batches into ``out``; returns the first token that has none."""
        done = batches[0].part.start
        taken = 0
        for batch in batches:
            answered = replies[taken : taken + len(batch.requests)]
            if len(answered) < len(batch.requests):
                break
            tokens = batch.part.stop - batch.part.start
            parts = [layout.results(reply, tokens, self.geometry) for reply in answered[batch.uploads :]]
            out[batch.part] = np.concatenate(parts, axis=1)[:, : out.shape[1]]
            taken += len(batch.requests)
            done = batch.part.stop
        return done

    # ------------------------------------------------------------------ the rest

    def counters(self) -> Counters:
        """The board's own counters, since power-up or :meth:`reset`."""
        return Counters.decode(self.link.request(Message.COUNTERS))

    def read_energy(self) -> Energy:
        """Energy since power-up, as the board knows it; its source may be NONE.

        Raises:
            BoardError: a simulated board says that it measured.
        """
        energy = Energy.decode(self.link.request(Message.READ_ENERGY))
        if self.simulated and energy.source is protocol.EnergySource.MEASURED:
            raise BoardError(f"board {self.hello.name} is simulated and says that it measured energy: it cannot have")
        return energy

    def ping(self, data: bytes) -> bytes:
        """The same bytes, there and back."""
        return self.link.request(Message.PING, data)

    def reset(self) -> None:
        """Clear the board's handles, activations and counters; weights are loaded again when they are needed."""
        with self._lock:
            self.link.request(Message.RESET)
            self.memory.clear()

    def describe(self) -> dict[str, Any]:
        """Plain data for config.json."""
        hello = asdict(self.hello) | {
            "formats": list(self.hello.format_names),
            "energy": self.hello.energy.name.lower(),
        }
        return {
            "hello": hello | {"version": list(self.hello.version)},
            "simulated": self.simulated,
            "traffic": asdict(self.traffic) | {"evictions": self.memory.evictions},
            "link": self.link.describe(),
        }

    def _first_reading(self) -> Energy | None:
        """So that a meter can tell the energy of a window in which the board was opened; None without a source."""
        return None if self.hello.energy is protocol.EnergySource.NONE else self.read_energy()

    @property
    def name(self) -> str:
        return self.hello.name

    def close(self) -> None:
        """Idempotent."""
        _open.discard(self)
        self.link.close()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ getting to know each other

    def _first_hello(self) -> Hello:
        try:
            return self._say_hello()
        except LinkReopened as error:  # a server of one host at a time turns others away so
            raise LinkError(
                f"{self.link.url} closes every connection: another program may be using this board (close that one), "
                "or the cable is loose"
            ) from error

    def _say_hello(self) -> Hello:
        self.link.credits = 1
        try:
            hello = Hello.decode(self.link.request(Message.HELLO, protocol.hello_request()))
        except (ProtocolError, Refused) as error:
            raise BoardError(f"{self.link.url}: {error}") from error
        self.link.learn_credits(hello.credits)
        return hello

    def _check_geometry(self) -> None:
        hello = self.hello
        sound = hello.lanes == BLOCK and hello.rows and hello.columns and hello.group and hello.handles
        if not sound or not layout.groups_per_run(hello.columns, hello.max_payload, self.geometry):
            raise BoardError(f"board {hello.name} at {self.link.url} says something impossible of itself: {hello}")

    def introduce_again(self) -> None:
        """After a loss: make sure that it is the same board, and start from nothing.

        Raises:
            BoardError: another board answers.
        """
        hello = self._say_hello()
        if hello != self.hello:
            raise BoardError(
                f"at {self.link.url} another board answers than before: {hello.name} instead of {self.hello.name}; "
                "open it anew"
            )
        self._start_from_nothing()

    def _start_from_nothing(self) -> None:
        """What is loaded from now on counts as lost when the port has been opened anew, whoever notices it."""
        met = self.link.opened
        self.link.exchange([(Message.RESET, b"")], since=met)
        self.memory.clear()
        self._met = met


@dataclass
class _Batch:
    """The requests for a few tokens: ``uploads`` of them carry activations, the others are RUNs."""

    part: slice
    requests: list[Request] = field(default_factory=list)
    uploads: int = 0
