"""The ledgers of ranks that train together, as one: work and joules are summed, wall time is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .rows import ALL, EnergyRow

_Key = tuple[int, str, str, str, str, str]


def sum_over_ranks(ledgers: Sequence[Sequence[EnergyRow]]) -> list[EnergyRow]:
    """One ledger of the rows that ranks booked for the same steps; the main rank's come first.

    ``macs``, ``bytes`` and ``joules`` are summed by step, phase, role, format, dtype and source. ``seconds`` are the
    main rank's wall time: ranks work side by side, so a sum of theirs would be no time that passed. Joules that one
    rank does not know stay unknown, and are estimated if any part is.

    Args:
        ledgers: rows by rank, the main rank's first.
    """
    summed: dict[_Key, EnergyRow] = {}
    for rank, rows in enumerate(ledgers):
        for row in rows:
            own = row if rank == 0 else replace(row, seconds=None)
            key = (row.step, row.phase, row.role, row.format, row.dtype, row.source)
            known = summed.get(key)
            summed[key] = own if known is None else _sum(known, own)
    return _without_empty(list(summed.values()))


def _sum(a: EnergyRow, b: EnergyRow) -> EnergyRow:
    if a.source:
        joules = None if a.joules is None or b.joules is None else a.joules + b.joules
    else:
        joules = None
    return replace(
        a,
        seconds=a.seconds if b.seconds is None else b.seconds if a.seconds is None else a.seconds + b.seconds,
        macs=_total(a.macs, b.macs),
        bytes=_total(a.bytes, b.bytes),
        joules=joules,
        estimated=None if joules is None else bool(a.estimated or b.estimated),
    )


def _total(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else a + b


def _without_empty(rows: list[EnergyRow]) -> list[EnergyRow]:
    """Without other ranks' rows of wall time, now bare, in a phase of which another row tells."""
    told = {(row.step, row.phase) for row in rows if row.role == ALL and not _bare(row)}
    return [row for row in rows if not _bare(row) or (row.step, row.phase) not in told]


def _bare(row: EnergyRow) -> bool:
    return row.role == ALL and row.seconds is None and not row.source
