"""A counter of joules that a thread keeps reading, so that no window of training waits for the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from .http_json import UnreadablePlug

JOULES = {"J": 1.0, "Wh": 3600.0, "kWh": 3.6e6}
POWER = {"W": 1.0, "mW": 1e-3}


@dataclass(frozen=True)
class State:
    """What was read so far. ``joules`` only grows; ``ticks`` counts the readings at which it moved.

    ``trouble`` is why the last reading failed, empty when it did not; ``breaks`` counts what makes a difference of
    two states meaningless: readings that failed, and counters that went back.
    """

    joules: float = 0.0
    ticks: int = 0
    first_tick: float | None = None
    last_tick: float | None = None
    breaks: int = 0
    trouble: str = "the plug was not read yet"
    last_break: str = ""
    read_at: float | None = None


class PlugCounter:
    """Calls ``read`` every ``poll_s`` seconds in a thread of its own, from ``start`` to ``close``.

    Args:
        read: the number now; raises UnreadablePlug.
        unit: of that number: an energy that counts up (J, Wh, kWh), or a power (W, mW), which is integrated by
            trapezoids between two readings.
        clock: seconds, monotonic.
    """

    def __init__(
        self, read: Callable[[], float], unit: str, poll_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._unit, self._poll_s, self._clock = read, unit, poll_s, clock
        self._last: tuple[float, float] | None = None
        self._state = State()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> State:
        """The last state; read without a lock, since it is replaced and never changed."""
        return self._state

    def start(self) -> None:
        """Read once here, so that the first window has its beginning; then go on in the thread. Idempotent."""
        if self._thread is None and not self._stop.is_set():
            self.poll()
            self._thread = threading.Thread(target=self._run, name="smart-plug", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; one that waits for the plug ends by its time-out. Idempotent."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._poll_s):
            self.poll()

    def poll(self) -> None:
        """One reading."""
        before = self._state
        try:
            value = self._read()
        except UnreadablePlug as error:
            self._last = None
            why = str(error)
            now = self._clock()
            self._state = replace(before, breaks=before.breaks + 1, trouble=why, last_break=why, read_at=now)
            return
        now = self._clock()
        last, self._last = self._last, (now, value)
        joules, why = (0.0, "") if last is None else self._since(last, now, value)
        state = replace(before, joules=before.joules + joules, trouble="", read_at=now)
        if joules > 0.0:
            first = now if before.first_tick is None else before.first_tick
            state = replace(state, ticks=before.ticks + 1, first_tick=first, last_tick=now)
        self._state = replace(state, breaks=before.breaks + 1, last_break=why) if why else state

    def silent_for(self) -> float:
        """Seconds since a reading ended, well or badly."""
        read_at = self._state.read_at
        return 0.0 if read_at is None else self._clock() - read_at

    def _since(self, last: tuple[float, float], now: float, value: float) -> tuple[float, str]:
        """Joules since the last reading, or why they are unknown."""
        then, before = last
        if self._unit in POWER:
            if min(value, before) < 0.0:
                return 0.0, f"the plug's power is negative ({min(value, before):g} {self._unit}): it feeds back"
            return (before + value) / 2 * POWER[self._unit] * (now - then), ""
        if value < before:
            return 0.0, f"the plug's counter went back from {before:g} to {value:g} {self._unit}: was it reset?"
        return (value - before) * JOULES[self._unit], ""
