"""Windows: which phase the wall time, the measured joules and the executed work belong to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import LedgerError
from ..interfaces import Measurement, Meter, Work
from .guarded import GuardedMeter
from .rows import ALL, EnergyRow

_WorkKey = tuple[str, str, str]


@dataclass
class _Reading:
    """What one measuring meter said about a phase, over all its windows of the step."""

    joules: float | None = None
    estimated: bool = False
    measuring: bool = False
    unknown: str = ""
    below_resolution: str = ""

    def add(self, measured: Measurement) -> None:
        if measured.joules is not None:
            self.measuring = True
            self.estimated |= measured.estimated
            self.joules = (self.joules or 0.0) + measured.joules
        elif measured.updates == 0:
            # A cumulative counter that did not tick hands this window's energy to a neighbour: the sum
            # over windows stays right, so the phase is not thereby unknown.
            self.measuring = True
            self.below_resolution = measured.why
        elif not measured.estimated:
            self.measuring = True
            self.unknown = measured.why or "the meter gave no reason"


@dataclass
class _PhaseTotal:
    seconds: float = 0.0
    work: dict[_WorkKey, Work] = field(default_factory=dict)
    readings: list[_Reading] = field(default_factory=list)

    def add_work(self, work: Work) -> None:
        key = (work.role, work.format, work.dtype)
        known = self.work.get(key)
        self.work[key] = work if known is None else _sum(known, work)


def _sum(a: Work, b: Work) -> Work:
    return Work(
        a.role,
        a.format,
        a.dtype,
        macs=a.macs + b.macs,
        weight_bytes=a.weight_bytes + b.weight_bytes,
        activation_bytes=a.activation_bytes + b.activation_bytes,
        kv_bytes=a.kv_bytes + b.kv_bytes,
        cast_elements=a.cast_elements + b.cast_elements,
    )


class Ledger:
    """One window is open from ``start`` to ``stop``; together the windows partition that wall time.

    Args:
        meters: each gets ``begin_window``/``end_window`` around every window; what they raise becomes
            unknown joules with a reason, and never reaches the training loop.
        collect: drains the :class:`Work` executed since its last call. It is called first when a
            window closes, so a device that executes asynchronously is synchronised there.
        clock: seconds, monotonic. It is read once per boundary: the end of a window is the start of
            the next, hence nothing is counted twice or lost.

    ``reasons`` maps a source to why its joules were unknown somewhere; ``domains`` maps a source to
    its joules per domain (a CPU package, DRAM, a GPU) so far. Calls from several threads are serialised.
    """

    def __init__(
        self,
        meters: Sequence[Meter],
        collect: Callable[[], Iterable[Work]],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.reasons: dict[str, str] = {}
        self.domains: dict[str, dict[str, float]] = {}
        self._meters = [GuardedMeter(meter) for meter in meters]
        self._collect = collect
        self._clock = clock
        self._lock = threading.RLock()
        self._phase: str | None = None
        self._opened = 0.0
        self._totals: dict[str, _PhaseTotal] = {}

    @property
    def running(self) -> bool:
        """True between ``start`` and ``stop``."""
        return self._phase is not None

    @property
    def phase(self) -> str | None:
        """Phase of the open window; None outside ``start`` .. ``stop``."""
        return self._phase

    def start(self, phase: str = "other") -> None:
        """Open the first window. What was executed before is drained and belongs to no window.

        Raises:
            LedgerError: already running.
        """
        with self._lock:
            if self.running:
                raise LedgerError(f"the ledger is already in phase {self._phase!r}; call stop() before start()")
            self._totals = {}
            for _ in self._collect():
                pass
            self._opened = self._clock()
            self._open(phase)

    def switch(self, phase: str) -> None:
        """Close the open window and open one for ``phase``; staying in a phase costs nothing.

        Outside ``start`` .. ``stop`` nothing is metered, and this does nothing.
        """
        with self._lock:
            if self._phase is None or phase == self._phase:
                return
            try:
                self._close(self._phase)
            finally:
                self._open(phase)

    def step_end(self, step: int) -> list[EnergyRow]:
        """Close the window, return the rows of the step that ends here, and reopen the same phase.

        Raises:
            LedgerError: not running.
        """
        with self._lock:
            if self._phase is None:
                raise LedgerError(f"step {step} ended but the ledger is not running; call start() first")
            phase = self._phase
            try:
                self._close(phase)
            finally:
                self._open(phase)
            return self._take_rows(step)

    def stop(self, step: int) -> list[EnergyRow]:
        """Close the last window and return its rows; belongs in a ``finally``. Idempotent."""
        with self._lock:
            if self._phase is None:
                return []
            phase, self._phase = self._phase, None
            self._close(phase)
            return self._take_rows(step)

    def describe_meters(self) -> list[Mapping[str, Any]]:
        """What each meter says of itself, for config.json."""
        return [meter.describe() for meter in self._meters]

    def close(self) -> None:
        """Close the meters. Rows of a window that is still open are lost: call ``stop`` first."""
        with self._lock:
            if self._phase is not None:
                phase, self._phase = self._phase, None
                self._close(phase)
            for meter in self._meters:
                meter.close()

    def _open(self, phase: str) -> None:
        self._phase = phase
        for meter in self._meters:
            meter.begin(phase)

    def _close(self, phase: str) -> None:
        total = self._totals.setdefault(phase, _PhaseTotal())
        if not total.readings:
            total.readings = [_Reading() for _ in self._meters]
        try:
            for work in self._collect():
                total.add_work(work)
        finally:
            for meter, reading in zip(self._meters, total.readings, strict=True):
                measured = meter.end(phase)
                reading.add(measured)
                self._note_domains(measured)
            now = self._clock()
            total.seconds += now - self._opened
            self._opened = now

    def _note_domains(self, measured: Measurement) -> None:
        if measured.joules is None:
            return
        totals = self.domains.setdefault(measured.source, {})
        for domain, joules in measured.domains.items():
            totals[domain] = totals.get(domain, 0.0) + joules

    def _take_rows(self, step: int) -> list[EnergyRow]:
        totals, self._totals = self._totals, {}
        rows: list[EnergyRow] = []
        for phase, total in totals.items():
            rows += self._phase_rows(step, phase, total)
            for key in sorted(total.work):
                rows += self._work_rows(step, phase, total.work[key])
        return rows

    def _phase_rows(self, step: int, phase: str, total: _PhaseTotal) -> list[EnergyRow]:
        """Seconds stand in the first row only, so that the column can be summed."""
        rows: list[EnergyRow] = []
        for meter, reading in zip(self._meters, total.readings, strict=True):
            if not reading.measuring:
                continue
            joules = None if reading.unknown else reading.joules
            if joules is None:
                self.reasons.setdefault(meter.source, reading.unknown or reading.below_resolution)
            seconds = None if rows else total.seconds
            estimated = None if joules is None else reading.estimated
            rows.append(EnergyRow(step, phase, ALL, ALL, "", seconds, None, None, joules, meter.source, estimated))
        return rows or [EnergyRow(step, phase, ALL, ALL, seconds=total.seconds)]

    def _work_rows(self, step: int, phase: str, work: Work) -> list[EnergyRow]:
        """MACs and bytes stand in the first row only; a second estimate gets a row of its own."""
        rows: list[EnergyRow] = []
        for meter in self._meters:
            estimate = meter.estimate(work)
            if estimate is None:
                continue
            joules = estimate.joules
            if joules is None:
                self.reasons.setdefault(estimate.source, estimate.why or "the meter gave no reason")
            macs, moved = (None, None) if rows else (work.macs, work.bytes)
            estimated = None if joules is None else True
            rows.append(
                EnergyRow(
                    step,
                    phase,
                    work.role,
                    work.format,
                    work.dtype,
                    None,
                    macs,
                    moved,
                    joules,
                    estimate.source,
                    estimated,
                )
            )
        bare = EnergyRow(step, phase, work.role, work.format, work.dtype, macs=work.macs, bytes=work.bytes)
        return rows or [bare]
