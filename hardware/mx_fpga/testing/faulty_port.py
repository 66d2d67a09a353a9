"""A port that does to the bytes what a bad cable does: put it into a link by :meth:`mx_fpga.link.Link.through`."""

from __future__ import annotations

import time

from ..port import BytePort, PortLost, WriteStalled
from .faulty_wire import FaultyWire


class FaultyPort:
    """Bytes to and from ``port`` go through ``wire``. Behind it may be any board, a real one too.

    Args:
        plug: shared by the ports that a link opens one after the other; by default one that is never pulled.
    """

    def __init__(self, port: BytePort, wire: FaultyWire, plug: Plug | None = None) -> None:
        self.port, self.wire, self.plug = port, wire, plug or Plug()
        self._late: list[tuple[float, bytes]] = []  # when it may be seen, what

    def read(self, timeout_s: float) -> bytes:
        """As :meth:`mx_fpga.port.Port.read`."""
        until = time.monotonic() + timeout_s
        while True:
            now = time.monotonic()
            if self._late and self._late[0][0] <= now:
                return self._late.pop(0)[1]
            due = min([until, *(when for when, _ in self._late)])
            data = self.port.read(max(due - now, 0.0))
            if data:
                delay = self.wire.delay_s(data)
                damaged = self.wire.damaged_for_host(data)
                if not delay and not self._late:
                    return damaged
                # What comes behind something late is late too: bytes keep their order.
                self._late.append((max([now + delay, *(when for when, _ in self._late)]), damaged))
            elif time.monotonic() >= until:
                return b""

    def write(self, data: bytes) -> None:
        """As :meth:`mx_fpga.port.Port.write`."""
        if self.plug.pulled_by(len(data)):
            raise PortLost("the cable was pulled, by a FaultyPort")
        if self.plug.stalls():
            raise WriteStalled("no more bytes are taken, by a FaultyPort")
        self.port.write(self.wire.to_board(data))

    def close(self) -> None:
        """Idempotent."""
        self.port.close()


class Plug:
    """What happens to a port as a whole.

    Args:
        pull_after: once so many bytes have been written, the port is lost, one time.
        stalled_writes: so many writes fail, as where the other side takes no more bytes.

    ``pulled``: whether it has been.
    """

    def __init__(self, pull_after: int | None = None, stalled_writes: int = 0) -> None:
        self.pull_after, self.stalled_writes = pull_after, stalled_writes
        self.pulled = False
        self._written = 0

    def pulled_by(self, count: int) -> bool:
        """Whether writing ``count`` bytes more is when the cable comes out."""
        self._written += count
        if self.pulled or self.pull_after is None or self._written <= self.pull_after:
            return False
        self.pulled = True
        return True

    def stalls(self) -> bool:
        """Whether this write fails."""
        if not self.stalled_writes:
            return False
        self.stalled_writes -= 1
        return True
