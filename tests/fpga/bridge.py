"""A cable between a host and the simulated board on which a test can lose, damage or count bytes."""

from __future__ import annotations

import os
import select
import threading
import tty
from types import TracebackType

from mx_fpga.fake_port import Wire


class Bridge:
    """Carries bytes between a pty of its own, ``url``, and the board's, through ``wire``, until it is closed."""

    def __init__(self, board: str, wire: Wire) -> None:
        self.wire = wire
        self._board = os.open(board, os.O_RDWR | os.O_NOCTTY)
        self._host, self._other_end = os.openpty()
        tty.setraw(self._other_end)
        self.url = os.ttyname(self._other_end)
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._carry, name=f"bridge to {board}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Bridge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._stop_write, b"x")
        self._thread.join()
        for file in (self._board, self._host, self._other_end, self._stop_read, self._stop_write):
            os.close(file)

    def _carry(self) -> None:
        while True:
            ready = select.select([self._stop_read, self._host, self._board], [], [])[0]
            if self._stop_read in ready:
                return
            if self._host in ready:
                self._write(self._board, self.wire.to_board(os.read(self._host, 4096)))
            if self._board in ready:
                self._write(self._host, self.wire.to_host(os.read(self._board, 4096)))

    def _write(self, target: int, data: bytes) -> None:
        while data and not select.select([self._stop_read], [target], [])[0]:
            data = data[os.write(target, data) :]
