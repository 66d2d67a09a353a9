"""Seconds and peak memory of each phase, at every step: the ledger's own windows, without meters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from mx_plugin.execution.phases import OTHER, TRACKER
from mx_plugin.ledger import Ledger

from .memory import PeakMemory, Peaks


class PhaseTotal(NamedTuple):
    """Of one phase in one step: wall seconds, and the largest of its windows' peaks."""

    seconds: float
    peaks: Peaks


class Boundary(NamedTuple):
    """From ``at`` (seconds of ``time.perf_counter``) on, the run is in ``phase`` of step ``step`` (the first is 1)."""

    at: float
    phase: str
    step: int


class PhaseClock:
    """Follows the tracker; its phases partition the wall time from :meth:`start` to :meth:`stop`.

    Args:
        memory: read at the end of each phase.
        settle: called before each boundary: a device that executes asynchronously finishes first.
    """

    def __init__(self, memory: PeakMemory, settle: Callable[[], None] | None = None) -> None:
        self._memory = memory
        self._settle = settle
        self._now = 0.0
        self._ledger = Ledger((), tuple, clock=self._read)
        self._peaks: dict[str, Peaks] = {}
        self._lock = threading.Lock()
        self._step = 1
        self.track: list[Boundary] | None = None
        """Every boundary since :meth:`follow`, None while nobody wants them."""

    def _read(self) -> float:
        self._now = time.perf_counter()
        return self._now

    def start(self, step: int) -> None:
        """Step ``step`` begins (the first is 1), and what is going on is ``other``."""
        self._step = step
        self._ledger.start(OTHER)
        TRACKER.subscribe(self.entered, first=True)

    def rebase(self, step: int) -> None:
        """The step in progress is ``step``: a checkpoint was taken up."""
        self._step = step

    def entered(self, phase: str) -> None:
        """The tracker's word: ``phase`` begins."""
        with self._lock:
            self._end_phase()
            self._ledger.switch(phase)
            if self.track is not None:
                self.track.append(Boundary(self._now, phase, self._step))

    def step_end(self, step: int) -> dict[str, PhaseTotal]:
        """Step ``step`` is over: its totals by phase."""
        with self._lock:
            phase = self._ledger.phase or OTHER
            self._end_phase()
            rows = self._ledger.step_end(step)
            self._step = step + 1
            if self.track is not None:
                self.track.append(Boundary(self._now, phase, self._step))
            return self._totals(rows)

    def stop(self, step: int) -> dict[str, PhaseTotal]:
        """Totals of what ran since the last step ended. Idempotent: then nothing."""
        if not self._ledger.running:
            return {}
        TRACKER.unsubscribe(self.entered)
        with self._lock:
            self._end_phase()
            return self._totals(self._ledger.stop(step))

    def follow(self) -> None:
        """Keep boundaries from now on."""
        with self._lock:
            self.track = [Boundary(time.perf_counter(), self._ledger.phase or OTHER, self._step)]

    def unfollow(self) -> list[Boundary]:
        """The boundaries since :meth:`follow`; none are kept from now on."""
        with self._lock:
            track, self.track = self.track or [], None
            return track

    def _end_phase(self) -> None:
        if self._settle is not None and self.track is not None:
            self._settle()
        phase = self._ledger.phase
        if phase is not None:
            known = self._peaks.get(phase)
            peaks = self._memory.take()
            self._peaks[phase] = peaks if known is None else peaks.larger(known)

    def _totals(self, rows: list) -> dict[str, PhaseTotal]:  # type: ignore[type-arg]
        peaks, self._peaks = self._peaks, {}
        return {row.phase: PhaseTotal(row.seconds or 0.0, peaks.get(row.phase, Peaks())) for row in rows}
