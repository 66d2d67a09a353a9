"""Seconds and peak memory of each phase, at every step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from mx_plugin.execution.phases import OTHER, TRACKER

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
    """Follows the tracker; its phases partition the wall time from :meth:`start` to :meth:`stop`, as the ledger's do.

    It keeps books of its own, because it runs at every change of phase of steps that nobody profiles: the ledger's,
    made for meters and work, take ten times as long.

    Args:
        memory: read at the end of each phase.
        settle: called before each boundary: a device that executes asynchronously finishes first.
    """

    def __init__(self, memory: PeakMemory, settle: Callable[[], None] | None = None) -> None:
        self._memory = memory
        self._settle = settle
        self._phase: str | None = None
        self._opened = 0.0
        self._totals: dict[str, PhaseTotal] = {}
        self._lock = threading.Lock()
        self._step = 1
        self.track: list[Boundary] | None = None
        """Every boundary since :meth:`follow`, None while nobody wants them."""

    def start(self, step: int) -> None:
        """Step ``step`` begins (the first is 1), and what is going on is ``other``."""
        self._step, self._phase, self._opened = step, OTHER, time.perf_counter()
        TRACKER.subscribe(self.entered, first=True)

    @property
    def now(self) -> float:
        """Seconds of ``time.perf_counter`` at the last boundary."""
        return self._opened

    def rebase(self, step: int) -> None:
        """The step in progress is ``step``: a checkpoint was taken up."""
        self._step = step

    def entered(self, phase: str) -> None:
        """The tracker's word: ``phase`` begins."""
        with self._lock:
            before = self._phase
            if before is None or before == phase:
                return
            self._close(before)
            self._open(phase)

    def step_end(self, step: int) -> dict[str, PhaseTotal]:
        """Step ``step`` is over: its totals by phase."""
        with self._lock:
            phase = self._phase or OTHER
            self._close(phase)
            self._step = step + 1
            self._open(phase)
            return self._take()

    def stop(self) -> dict[str, PhaseTotal]:
        """Totals of what ran since the last step ended. Idempotent: then nothing."""
        TRACKER.unsubscribe(self.entered)
        with self._lock:
            phase, self._phase = self._phase, None
            if phase is None:
                return {}
            self._close(phase)
            return self._take()

    def follow(self) -> None:
        """Keep boundaries from now on."""
        with self._lock:
            self.track = [Boundary(time.perf_counter(), self._phase or OTHER, self._step)]

    def unfollow(self) -> list[Boundary]:
        """The boundaries since :meth:`follow`; none are kept from now on."""
        with self._lock:
            track, self.track = self.track or [], None
            return track

    def _close(self, phase: str) -> None:
        if self._settle is not None and self.track is not None:
            self._settle()
        peaks = self._memory.take()
        now = time.perf_counter()
        seconds = now - self._opened
        self._opened = now
        known = self._totals.get(phase)
        if known is not None:
            seconds, peaks = seconds + known.seconds, peaks.larger(known.peaks)
        self._totals[phase] = PhaseTotal(seconds, peaks)

    def _open(self, phase: str) -> None:
        self._phase = phase
        if self.track is not None:
            self.track.append(Boundary(self._opened, phase, self._step))

    def _take(self) -> dict[str, PhaseTotal]:
        totals, self._totals = self._totals, {}
        return totals
