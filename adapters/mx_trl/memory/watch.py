"""The process's resident memory by phase, as Linux accounts for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mx_plugin.execution.phases import OTHER, TRACKER

from ..errors import StageError
from ..observer import Observer

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(peak: bool = False) -> int:
    """Bytes that are resident now (``VmRSS``), or the most since the last :func:`forget_peak` (``VmHWM``).

    Raises:
        StageError: no Linux.
    """
    name = "VmHWM" if peak else "VmRSS"
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        raise StageError(f"{_STATUS} has no {name}: resident memory is measured on Linux only")
    return int(found[1]) * 1024


def forget_peak() -> None:
    """Let ``VmHWM`` begin anew at what is resident now (proc(5): writing 5 to clear_refs).

    Raises:
        StageError: the kernel does not allow it.
    """
    try:
        _CLEAR.write_text("5")
    except OSError as error:
        raise StageError(f"cannot reset the peak of resident memory through {_CLEAR}: {error}") from error


class PhasePeaks(Observer):
    """Observes one ``train()``: ``peaks`` by phase, bytes above ``base``. At a phase's end its peak is read and reset.

    The first step is not the steady state (optimiser states are made in it), but a peak is a peak.
    """

    def __init__(self, base: int) -> None:
        super().__init__()
        self.base = base
        self.peaks: dict[str, int] = {}
        self._phase = OTHER

    @contextmanager
    def observing(self, trainer: Any) -> Iterator[None]:
        """Follow the tracker's phases."""
        self._phase = TRACKER.phase
        forget_peak()
        TRACKER.subscribe(self._entered)
        try:
            yield
        finally:
            self._entered(OTHER)
            TRACKER.unsubscribe(self._entered)

    def _entered(self, phase: str) -> None:
        peak = resident(peak=True) - self.base
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0), peak)
        self._phase = phase
        forget_peak()
