"""ranks.csv of a run folder: what each rank took and executed, step by step; energy.csv holds the sums."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from mx_plugin.ledger import EnergyRow, summarise
from mx_plugin.ledger.resume import keep_csv
from mx_plugin.ledger.writers import RecordFile, csv_record

COLUMNS = ("step", "rank", "machine", "phase", "seconds", "macs", "bytes")

log = logging.getLogger(__name__)


class RankFile:
    """Appends to ``ranks.csv`` in ``folder``; with ``resume_step`` rows of later steps are dropped.

    Raises:
        LedgerError: an earlier ranks.csv is not such a table.
        OSError: it cannot be opened.
    """

    def __init__(self, folder: Path, hosts: Sequence[str], resume_step: int | None = None) -> None:
        path = folder / "ranks.csv"
        self._columns: tuple[str, ...] = COLUMNS
        if resume_step is not None:
            self._columns = keep_csv(path, COLUMNS, resume_step)
        names = list(dict.fromkeys(hosts))
        self._machines = [names.index(host) for host in hosts]
        self._file = RecordFile(path, lambda where, error: log.warning("cannot write %s: %s", where, error))
        if path.stat().st_size == 0:
            self._file.append([csv_record(self._columns)])

    def write(self, ledgers: Sequence[Sequence[EnergyRow]]) -> None:
        """Append the rows that ranks booked, by rank."""
        records = []
        for rank, rows in enumerate(ledgers):
            for step in dict.fromkeys(row.step for row in rows):
                for phase, total in summarise(row for row in rows if row.step == step).items():
                    values: dict[str, object] = {
                        "step": step, "rank": rank, "machine": self._machines[rank], "phase": phase,
                        "seconds": total.seconds, "macs": sum(total.macs.values()), "bytes": total.bytes or 0,
                    }  # fmt: skip
                    records.append(csv_record([_text(values.get(column)) for column in self._columns]))
        self._file.append(records)

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


def _text(value: object) -> str:
    return "" if value is None else str(value)
