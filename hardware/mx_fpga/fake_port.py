"""Puts a :class:`~mx_fpga.fake.FakeBoard` behind a real port of this machine: a pty or a TCP port on the loopback."""

from __future__ import annotations

import os
import select
import socket
import threading
from types import TracebackType
from typing import Protocol

from .fake import FakeBoard

_READ_BYTES = 1 << 16


class Wire(Protocol):
    """What happens to bytes on their way; a test's wire loses or damages some."""

    def to_board(self, data: bytes) -> bytes: ...

    def to_host(self, data: bytes) -> bytes: ...


class _Sound:
    """A wire on which nothing is lost."""

    def to_board(self, data: bytes) -> bytes:
        return data

    def to_host(self, data: bytes) -> bytes:
        return data


class FakePort:
    """A thread that carries bytes between a port and a board until :meth:`close`.

    Args:
        board: what answers.
        wire: what happens to the bytes on their way; by default nothing.
        tcp: a TCP port on 127.0.0.1 (``socket://``), one host at a time, instead of a pty.

    ``url``: what a host opens.
    """

    def __init__(self, board: FakeBoard, wire: Wire | None = None, *, tcp: bool = False) -> None:
        self.board = board
        self.wire: Wire = wire or _Sound()
        self._stop_read, self._stop_write = os.pipe()
        self._connection: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._files: list[int] = []
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"socket://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self.url = self._open_pty()
        self._thread = threading.Thread(target=self._carry, name=f"fake board at {self.url}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; the host finds its port gone. Idempotent."""
        if self._stop_write < 0:
            return
        os.write(self._stop_write, b"x")
        self._thread.join()
        for open_socket in (self._connection, self._listener):
            if open_socket is not None:
                open_socket.close()
        for file in (*self._files, self._stop_read, self._stop_write):
            os.close(file)
        self._stop_write = -1

    def __enter__(self) -> FakePort:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_pty(self) -> str:
        import pty
        import tty

        ours, theirs = pty.openpty()
        tty.setraw(theirs)  # before the first host opens it, or the terminal would echo and translate
        path = os.ttyname(theirs)
        # The host's end stays open here too: a host that comes and goes must not end the pty.
        self._files = [ours, theirs]
        return path

    def _carry(self) -> None:
        while True:
            source = self._source()
            ready = select.select([self._stop_read, source], [], [])[0]
            if self._stop_read in ready:
                return
            if self._listener is not None and self._connection is None:
                self._connection = self._listener.accept()[0]
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                continue
            try:
                data = os.read(source, _READ_BYTES)
                if data:
                    self._write(source, self.wire.to_host(self.board.feed(self.wire.to_board(data))))
                    continue
            except OSError:
                pass  # the host has gone; a TCP port waits for the next one
            if self._connection is None:
                return
            self._connection.close()
            self._connection = None

    def _source(self) -> int:
        if self._listener is None:
            return self._files[0]
        return (self._connection or self._listener).fileno()

    def _write(self, target: int, data: bytes) -> None:
        """All of it, unless told to stop: a host that reads nothing must not keep this thread for ever."""
        rest = memoryview(data)
        while rest:
            ready = select.select([self._stop_read], [target], [])
            if ready[0]:
                return
            rest = rest[os.write(target, rest[:1024]) :]
