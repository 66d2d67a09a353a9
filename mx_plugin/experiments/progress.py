"""How far an experiment is, in lines of plain text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

_EVERY_SECONDS = 30.0


class ProgressLines:
    """Says what begins and ends, with the time that is left; between, on a terminal, redraws one line.

    Args:
        known_seconds: how long each finished run took, for the estimate of the rest.
    """

    def __init__(self, stream: TextIO, total: int, num_steps: int, known_seconds: Sequence[float] = ()) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._total, self._num_steps = total, num_steps
        self._seconds = [*known_seconds]
        self.ended = 0
        self._drawn = 0.0
        self._width = 0

    def say(self, text: str) -> None:
        """One line, for good."""
        self._wipe()
        self._stream.write(text + "\n")
        self._stream.flush()

    def finished(self, name: str, seconds: float, what: str) -> None:
        """A run has ended well."""
        self.ended += 1
        self._seconds.append(seconds)
        self.say(f"[{self.ended}/{self._total}] {name}: {what} in {in_words(seconds)}{self._left()}")

    def failed(self, name: str, seconds: float, what: str) -> None:
        """A run has ended badly."""
        self.ended += 1
        self.say(f"[{self.ended}/{self._total}] {name}: FAILED after {in_words(seconds)}: {what}")

    def running(self, states: Sequence[tuple[str, float, int]]) -> None:
        """Now and then: (name, seconds, steps done) of what runs."""
        now = time.monotonic()
        if now - self._drawn < (0.5 if self._terminal else _EVERY_SECONDS):
            return
        self._drawn = now
        texts = [f"{name}: step {steps}/{self._num_steps}" for name, _, steps in states]
        text = f"[{self.ended}/{self._total}] {', '.join(texts)}{self._left(states)}"
        if not self._terminal:
            self.say(text)
            return
        self._stream.write("\r" + text[:118].ljust(self._width))
        self._stream.flush()
        self._width = len(text[:118])

    def _left(self, states: Sequence[tuple[str, float, int]] = ()) -> str:
        """The runs that remain, at the mean of those that ended; without one, this run's own pace."""
        paces = [seconds / steps * self._num_steps for _, seconds, steps in states if steps]
        known = self._seconds or paces
        if not known or self.ended == self._total:
            return ""
        each = sum(known) / len(known)
        spent = sum(min(seconds, each) for _, seconds, _ in states)
        left = max(each * (self._total - self.ended) - spent, 0.0)
        return f"; about {in_words(left)} left"

    def _wipe(self) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0


def in_words(seconds: float) -> str:
    """``42 s``, ``7 min`` or ``2.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def steps_done(folder: Path) -> int:
    """Rows of a run's metrics.csv so far, wherever below ``folder`` it is being written."""
    for file in (folder / "metrics.csv", *folder.glob("policy_*/metrics.csv")):
        try:
            return max(file.read_bytes().count(b"\n") - 1, 0)
        except OSError:
            continue
    return 0
