"""A board that is opened when it is first needed, and given up when it fails and the user allowed that."""

from __future__ import annotations

import logging
import threading
from typing import Any

from mx_plugin.errors import PolicyError, nearest

from .board import Board
from .boards import default_url, open_board
from .errors import BoardError
from .port import INSTALL, have_pyserial

log = logging.getLogger(__name__)

STOP, EMULATE = "stop", "emulate"


class LazyBoard:
    """The board of one backend.

    Args:
        url: a URL that is given is opened at once, so that a wrong one is found before training; the default one when
            the board is first needed.
        board: name of a registered board, see :func:`~mx_fpga.boards.open_board`.
        on_failure: ``stop``: an error ends training. ``emulate``: it is logged, and the host computes the same bits.
        **options: of the board, e.g. ``baudrate``, ``timeout_s``.

    Raises:
        PolicyError: ``on_failure`` is not a choice.
        BoardError: pyserial is missing; or the board cannot be opened, and ``on_failure`` is ``stop``.
    """

    def __init__(self, url: str | None, board: str | None, on_failure: str, options: dict[str, Any]) -> None:
        if on_failure not in (STOP, EMULATE):
            raise PolicyError(f"on_failure={on_failure!r} is not a choice: {nearest(on_failure, (STOP, EMULATE))}")
        self.url = url or default_url()
        self.on_failure = on_failure
        self.gave_up = ""
        """Why the board is not used any more."""
        self._name, self._options = board, options
        self._board: Board | None = None
        self._lock = threading.RLock()
        self._closed = False
        if not have_pyserial():
            raise BoardError(f"a board needs pyserial, which is not installed: {INSTALL}, or choose mode=emulate")
        if url is not None:
            self.get()

    @property
    def opened(self) -> Board | None:
        """The board, if it is open."""
        return self._board

    def get(self) -> Board | None:
        """The board, opened now if need be; None once it was given up.

        Raises:
            BoardError: it cannot be opened, and ``on_failure`` is ``stop``; or this was closed.
        """
        with self._lock:
            if self._closed:
                raise BoardError("this backend is closed; make a new one by mx_plugin.get_backend")
            if self._board is None and not self.gave_up:
                try:
                    self._board = open_board(self.url, self._name, **self._options)
                except BoardError as error:
                    self.failed(error)
                else:
                    log.info("board at %s: %s", self.url, self._board.hello)
            return self._board

    def failed(self, error: BoardError) -> None:
        """The board failed: give it up where that is allowed.

        Raises:
            BoardError: it is not.
        """
        if self.on_failure == STOP:
            raise error
        with self._lock:
            if not self.gave_up:
                self.gave_up = str(error)
                log.warning(
                    "the board at %s is given up: %s. From here on the host computes the same bits (emulate)",
                    self.url, error,
                )  # fmt: skip
            self._close_board()

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._closed = True
            self._close_board()

    def describe(self) -> dict[str, Any]:
        """Plain data for config.json."""
        told: dict[str, Any] = {"url": self.url, "on_failure": self.on_failure}
        if self.gave_up:
            told["gave_up"] = self.gave_up
        if self._board is not None:
            told["board"] = self._board.describe()
        return told

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None
