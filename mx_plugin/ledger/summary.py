"""Sums over energy rows, per phase: what is measured and what is estimated stay apart, by source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .rows import ALL, EnergyRow


@dataclass
class Joules:
    """Energy of one source. ``joules`` sums the ``rows - unknown`` rows that know theirs.

    None when no row knows; a lower bound when some do not (``complete`` is False).
    """

    joules: float | None = None
    estimated: bool = False
    rows: int = 0
    unknown: int = 0

    @property
    def complete(self) -> bool:
        return self.unknown == 0

    def add(self, row: EnergyRow) -> None:
        self.rows += 1
        if row.joules is None:
            self.unknown += 1
            return
        self.joules = (self.joules or 0.0) + row.joules
        self.estimated |= bool(row.estimated)


@dataclass
class PhaseSummary:
    """Totals of one phase: seconds, bytes moved, MACs by format, joules by source. None is unknown."""

    seconds: float | None = None
    bytes: int | None = None
    macs: dict[str, int] = field(default_factory=dict)
    joules: dict[str, Joules] = field(default_factory=dict)

    def add(self, row: EnergyRow) -> None:
        if row.seconds is not None:
            self.seconds = (self.seconds or 0.0) + row.seconds
        if row.bytes is not None:
            self.bytes = (self.bytes or 0) + row.bytes
        if row.macs is not None and row.format != ALL:
            self.macs[row.format] = self.macs.get(row.format, 0) + row.macs
        if row.source:
            self.joules.setdefault(row.source, Joules()).add(row)


def summarise(rows: Iterable[EnergyRow]) -> dict[str, PhaseSummary]:
    """Totals per phase, in the order in which phases first appear."""
    phases: dict[str, PhaseSummary] = {}
    for row in rows:
        phases.setdefault(row.phase, PhaseSummary()).add(row)
    return phases


def overall(rows: Iterable[EnergyRow]) -> PhaseSummary:
    """The same totals over all phases."""
    total = PhaseSummary()
    for row in rows:
        total.add(row)
    return total
