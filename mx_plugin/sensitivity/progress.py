"""A bar for long work, in plain text."""

from __future__ import annotations

import time
from typing import Protocol, TextIO


class Progress(Protocol):
    """Told how much there is to do, and of each piece that is done."""

    def begin(self, total: int) -> None: ...

    def step(self, what: str) -> None: ...

    def end(self) -> None: ...


class Silent:
    """Shows nothing."""

    def begin(self, total: int) -> None:
        """See :class:`Progress`."""

    def step(self, what: str) -> None:
        """See :class:`Progress`."""

    def end(self) -> None:
        """See :class:`Progress`."""


class TextBar:
    """On a terminal one line that is redrawn; elsewhere a line for every tenth."""

    WIDTH = 24

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._done = self._total = 0
        self._shown = -1
        self._drawn = 0.0

    def begin(self, total: int) -> None:
        """Draw an empty bar."""
        self._total, self._done, self._began = max(total, 1), 0, time.monotonic()

    def step(self, what: str) -> None:
        """One piece is done."""
        self._done += 1
        now = time.monotonic()
        tenth = 10 * self._done // self._total
        if self._terminal:
            if now - self._drawn >= 0.1 or self._done == self._total:
                self._drawn = now
                self._stream.write(f"\r{self._line(what, now)[:118]:<118}")
                self._stream.flush()
        elif tenth != self._shown:
            self._shown = tenth
            self._stream.write(self._line(what, now) + "\n")
            self._stream.flush()

    def end(self) -> None:
        """Leave the last line."""
        if self._terminal and self._done:
            self._stream.write("\n")
            self._stream.flush()

    def _line(self, what: str, now: float) -> str:
        filled = self.WIDTH * self._done // self._total
        left = (now - self._began) / self._done * (self._total - self._done)
        bar = "#" * filled + "." * (self.WIDTH - filled)
        return f"[{bar}] {self._done}/{self._total}, {left:.0f} s left: {what}"
